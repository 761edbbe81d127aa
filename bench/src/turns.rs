//! Programs that train step after step when told to, measured in turns: what slows the
//! machine for a while slows all of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// First line of such a program, once it has made a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// What it is.
    pub name: String,
    /// Weights of its model.
    pub parameters: usize,
    /// Loss before the first step, in nats per token.
    pub loss: f64,
}

/// Its answer to a line with a number of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// What each of them took.
    pub seconds: Vec<f64>,
    /// Loss before the last of them.
    pub loss: f64,
}

/// Its last line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peak {
    /// The most memory it ever held.
    pub peak_bytes: u64,
}

/// A running program.
pub struct Runner {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said of itself.
    pub ready: Ready,
    /// From its start to the end of its first step.
    pub first_step_seconds: f64,
}

impl Runner {
    /// Starts it and waits for its first step.
    pub fn start(mut command: Command) -> Result<Self> {
        let started = Instant::now();
        let program = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program} does not start"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("its output was just piped")?;
        let mut output = BufReader::new(output);
        let ready = read(&mut output).with_context(|| format!("{program} gave up"))?;
        Ok(Self {
            child,
            input,
            output,
            ready,
            first_step_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Makes steps; returns the median of their seconds.
    pub fn make(&mut self, steps: usize) -> Result<f64> {
        let input = self.input.as_mut().context("it was ended")?;
        writeln!(input, "{steps}")?;
        input.flush()?;
        let made: Made = read(&mut self.output)?;
        Ok(median(made.seconds))
    }

    /// Ends it; returns its peak of memory.
    pub fn end(mut self) -> Result<u64> {
        drop(self.input.take());
        let peak: Peak = read(&mut self.output)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}", self.ready.name);
        }
        Ok(peak.peak_bytes)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Still running only where a measurement was given up; then nobody needs it.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read<T: serde::de::DeserializeOwned>(output: &mut impl BufRead) -> Result<T> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("not what was expected: {line:?}"))
}

/// The middle one, or the mean of the middle two.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    match numbers.len() % 2 {
        1 => numbers[half],
        _ => (numbers[half - 1] + numbers[half]) / 2.0,
    }
}
