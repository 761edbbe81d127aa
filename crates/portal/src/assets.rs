//! Scripts, styles and pictures, compiled in and served under a name that holds their hash,
//! so that a browser may keep them for ever.
//!
//! `assets/vendor/` is other people's work, unchanged; `assets/vendor/VENDORED.md` says whose.

use std::sync::LazyLock;

/// A file that pages refer to.
pub struct Asset {
    /// Its name in templates, for example `app.css`.
    pub name: &'static str,
    /// Its path in addresses: the hash of its bytes, then its name.
    pub path: String,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    /// What a browser checks it against (vendored files only; ours change with the binary).
    pub integrity: &'static str,
}

macro_rules! assets {
    ($($name:literal, $file:literal, $content_type:expr, $integrity:literal;)*) => {
        vec![$({
            let bytes: &'static [u8] = include_bytes!(concat!("../assets/", $file));
            let hash = blake3::hash(bytes).to_hex();
            Asset {
                name: $name,
                path: format!("{}-{}", &hash[..16], $name),
                content_type: $content_type,
                bytes,
                integrity: $integrity,
            }
        },)*]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets! {
        "app.css", "app.css", STYLE, "";
        "live.js", "live.js", SCRIPT, "";
        "icon.svg", "icon.svg", "image/svg+xml", "";
        "htmx.min.js", "vendor/htmx.min.js", SCRIPT,
            "sha384-Qp9rdC8H7EqOoX+nR0P3RPG2Noji+qdwJlGpfzwQJsfOpp3sGwIdSP9xO3+UlEhn";
        "hx-sse.min.js", "vendor/hx-sse.min.js", SCRIPT,
            "sha384-v8HvucQ+ohQhMg0arboXc5049yNR46QKMjphs7YDch+Wm7zpfK5XVS01f26mQDJV";
        "uPlot.iife.min.js", "vendor/uPlot.iife.min.js", SCRIPT,
            "sha384-Gx3t0zdBAuQOuvvmaLZj7HKEiSgWTAs+VdtNY7wt19QDPTDQjFIwAuXDj0zeN00c";
        "uPlot.min.css", "vendor/uPlot.min.css", STYLE,
            "sha384-IfV0B7MIOYuO95kO9G5ySKPz/85zqFNOAs8iy4tkK5zd9izhJAB8b7lHrwYqqmYE";
    }
});

/// All files.
#[cfg(test)]
pub fn all() -> &'static [Asset] {
    &ASSETS
}

/// The file served as `/assets/{path}`.
pub fn by_path(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// The file that templates call `name`.
pub fn by_name(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use base64::Engine;
    use sha2::Digest;

    use super::*;

    const VENDORED: &str = include_str!("../assets/vendor/VENDORED.md");

    #[test]
    fn vendored_files_are_what_the_browser_and_the_list_expect() {
        let mut vendored = 0;
        for asset in all().iter().filter(|asset| !asset.integrity.is_empty()) {
            let digest = sha2::Sha384::digest(asset.bytes);
            let actual = format!(
                "sha384-{}",
                base64::engine::general_purpose::STANDARD.encode(digest)
            );
            assert_eq!(asset.integrity, actual, "{}", asset.name);
            let row = VENDORED
                .lines()
                .find(|line| line.contains(&format!("`{}`", asset.name)));
            assert!(
                row.unwrap().contains(&actual),
                "VENDORED.md has another hash: {}",
                asset.name
            );
            vendored += 1;
        }
        assert_eq!(
            vendored,
            VENDORED.matches("sha384-").count(),
            "a row without its file"
        );
    }

    #[test]
    fn the_name_of_a_file_changes_with_its_bytes() {
        for asset in all() {
            let hash = blake3::hash(asset.bytes).to_hex();
            assert!(asset.path.starts_with(&hash[..16]), "{}", asset.path);
            assert!(by_path(&asset.path).is_some() && by_name(asset.name).is_some());
            assert!(
                by_path(asset.name).is_none(),
                "served without its hash: {}",
                asset.name
            );
        }
    }
}
