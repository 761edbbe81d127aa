// The live page of a running coordinator, seen through a real browser: it loads, keeps itself
// up to date, draws its curve, asks no other host for anything, and is readable by everyone.
//
//   OPENGPU_URL=http://127.0.0.1:8080 node live-page.mjs
//
// OPENGPU_URL        address of the coordinator; a run must be training there
// OPENGPU_SHOTS      folder for pictures (default: none are kept)
// OPENGPU_PATIENCE   seconds to wait for a run, and for its page to change by itself (default 120)
// CHROMIUM           the browser (default /usr/bin/chromium)

import { mkdtemp, mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { AxeBuilder } from "@axe-core/playwright";
import { chromium } from "playwright-core";

const base = process.env.OPENGPU_URL;
if (!base) {
  console.error("OPENGPU_URL is not set; give the address of a running coordinator.");
  process.exit(2);
}
const shots = process.env.OPENGPU_SHOTS;
const patience = Number(process.env.OPENGPU_PATIENCE ?? "120") * 1000;
const origin = new URL(base).origin;
const PHONE = { width: 360, height: 740 };
const DESK = { width: 1200, height: 900 };

const failures = [];
let checks = 0;
const check = (fact, holds, otherwise = "") => {
  checks += 1;
  console.log(`${holds ? "ok  " : "FAIL"} ${fact}${holds || !otherwise ? "" : `: ${otherwise}`}`);
  if (!holds) failures.push(fact);
};

const folder = await mkdtemp(join(tmpdir(), "opengpu-browser-"));
const launch = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
};

/** A fresh browser with an empty profile; everything that it complains of is written down. */
const open = async (name, options) => {
  const context = await chromium.launchPersistentContext(join(folder, name), { ...launch, ...options });
  const page = context.pages()[0] ?? (await context.newPage());
  const complaints = [];
  const strangers = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:") strangers.push(request.url());
  });
  return { context, page, complaints, strangers };
};

const shoot = async (page, name) => {
  if (!shots) return;
  await mkdir(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
};

const audit = async (page, name) => {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const words = violations.map((violation) => {
    const nodes = violation.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ");
    return `${violation.id} (${violation.help}) at ${nodes}`;
  });
  check(`axe finds nothing wrong with ${name}`, violations.length === 0, words.join("; "));
};

const text = (page) => page.locator("main").innerText();

/** Parts of the live page whose text differs from `before`. */
const PARTS = ["summary", "workers", "rounds", "about"];
const partTexts = (page) =>
  page.evaluate((ids) => Object.fromEntries(ids.map((id) => [id, document.getElementById(id)?.innerText])), PARTS);

const fits = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);

const luminance = (page) =>
  page.evaluate(() => {
    const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
    return (red + green + blue) / 3;
  });

const drawnColours = (page) =>
  page.evaluate(() => {
    const canvas = document.querySelector("#curve canvas");
    if (!canvas) return 0;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 200) colours.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
    }
    return colours.size;
  });

/** A coordinator that was just started has no run yet. */
const waitForRun = async () => {
  const end = Date.now() + patience;
  while (Date.now() < end) {
    try {
      const answer = await fetch(new URL("/runs", base));
      if (/href="\/runs\/\d+"/.test(await answer.text())) return true;
    } catch {
      // Not listening yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return false;
};

let livePath;
try {
  check("there is a run", await waitForRun(), `none in ${patience / 1000} s`);

  // ---- At a desk, by day ----
  {
    const { context, page, complaints, strangers } = await open("light", { viewport: DESK, colorScheme: "light" });
    let loads = 0;
    page.on("domcontentloaded", () => (loads += 1));
    await page.goto(base, { waitUntil: "load" });
    if (!/\/runs\/\d+$/.test(page.url())) {
      await audit(page, "the list of runs");
      await page.locator('a[href^="/runs/"]').first().click();
      await page.waitForURL(/\/runs\/\d+$/);
    }
    livePath = new URL(page.url()).pathname;
    check("the live page has the run's name as its heading", (await page.locator("h1").innerText()).trim() !== "");
    check("its title names the run", (await page.title()).includes(await page.locator("h1").innerText()));

    await page.waitForFunction(() => document.getElementById("link")?.dataset.state === "up", null, { timeout: patience });
    check("the event stream is connected", true);

    const before = await partTexts(page);
    const loadsBefore = loads;
    const changed = await page
      .waitForFunction((old) => old !== document.getElementById("summary")?.innerText, before.summary, { timeout: patience })
      .then(() => true, () => false);
    check("a number in the summary changes by itself", changed, `nothing changed in ${patience / 1000} s`);
    const roundsChanged = await page
      .waitForFunction((old) => old !== document.getElementById("rounds")?.innerText, before.rounds, { timeout: patience })
      .then(() => true, () => false);
    check("the table of rounds changes by itself", roundsChanged, `nothing changed in ${patience / 1000} s`);
    check("without loading the page again", loads === loadsBefore);

    const drawn = await page
      .waitForFunction(() => Number(document.getElementById("curve")?.dataset.points) >= 2, null, { timeout: patience })
      .then(() => true, () => false);
    check("the chart has at least two points", drawn);
    check("the chart is drawn", (await drawnColours(page)) > 2);
    const workers = await page.locator("#workers tbody tr").count();
    check("at least one worker is shown", workers > 0);

    await audit(page, "the live page by day");
    await shoot(page, "live-light");

    for (const part of ["rounds", "workers", "summary"]) {
      await page.goto(base.replace(/\/$/, "") + `${livePath}/${part}`, { waitUntil: "load" });
      check(`${livePath}/${part} is a page of its own`, (await page.locator(`#${part}`).count()) === 1);
      await audit(page, `the page of the ${part}`);
    }
    check("the browser has nothing to complain of", complaints.length === 0, complaints.join("; "));
    check("no other host is asked for anything", strangers.length === 0, strangers.join(", "));
    await context.close();
  }

  const address = origin + livePath;

  // ---- By night ----
  {
    const { context, page, complaints } = await open("dark", { viewport: DESK, colorScheme: "dark" });
    await page.goto(address, { waitUntil: "load" });
    await page.waitForFunction(() => document.querySelector("#curve canvas"), null, { timeout: patience });
    check("the page is dark where the reader wants it dark", (await luminance(page)) < 60);
    await audit(page, "the live page by night");
    await shoot(page, "live-dark");
    await page.emulateMedia({ colorScheme: "light" });
    check("and light again when the reader changes that", (await luminance(page)) > 200);
    check("the browser has nothing to complain of by night", complaints.length === 0, complaints.join("; "));
    await context.close();
  }

  // ---- On a phone ----
  {
    const { context, page, complaints } = await open("phone", { viewport: PHONE, hasTouch: true });
    await page.goto(address, { waitUntil: "load" });
    await page.waitForFunction(() => document.querySelector("#curve canvas"), null, { timeout: patience });
    check(`nothing is wider than a phone of ${PHONE.width} pixels`, await fits(page));
    await audit(page, "the live page on a phone");
    await shoot(page, "live-phone");
    check("the browser has nothing to complain of on a phone", complaints.length === 0, complaints.join("; "));
    await context.close();
  }

  // ---- On a slow line ----
  {
    const { context, page } = await open("slow", { viewport: DESK });
    await page.route(/hx-sse/, async (route) => {
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await route.continue();
    });
    let streams = 0;
    page.on("request", (request) => {
      if (request.url().includes("/events")) streams += 1;
    });
    await page.goto(address, { waitUntil: "load" });
    const live = await page
      .waitForFunction(() => document.getElementById("link")?.dataset.state === "up", null, { timeout: 20_000 })
      .then(() => true, () => false);
    check("the page goes live when the script of streams comes last", live);
    check("over one stream", streams === 1, `${streams} were asked for`);
    await context.close();
  }

  // ---- Without scripts ----
  {
    const { context, page } = await open("plain", { viewport: DESK, javaScriptEnabled: false });
    await page.goto(address, { waitUntil: "load" });
    const words = await text(page);
    check("without scripts the page still says where the run stands", /rounds done/.test(words));
    check("and draws the curve", (await page.locator("#curve svg polyline").count()) === 2);
    check("and loads itself again", (await page.content()).includes('http-equiv="refresh"'));
    await shoot(page, "live-plain");
    await context.close();
  }
} catch (error) {
  check("the test ran to its end", false, error.message);
} finally {
  await rm(folder, { recursive: true, force: true });
}

console.log(`${checks - failures.length} of ${checks} checks passed`);
process.exit(failures.length === 0 ? 0 : 1);
