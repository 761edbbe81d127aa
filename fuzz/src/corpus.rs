//! A target's inputs on disk.
//!
//! The committed ones are one text file for each target, one input a line: printable ASCII as
//! it is, every other byte and `\` as `\` and two hexadecimal digits. So a message can be read,
//! and a change shows as changed lines, where a thousand small files would show nothing.

use std::path::Path;

/// A first input: what it is, and its bytes.
pub type Seed = (String, Vec<u8>);

/// Called once before the first input. What a line of the corpus needs is done here too,
/// so that each target is one program:
///
/// - `FUZZ_UNPACK=FOLDER` writes the target's first inputs, and the lines from the standard
///   input, into the folder as the files that libFuzzer reads;
/// - `FUZZ_PACK=FOLDER` prints the files of the folder as lines.
///
/// # Panics
/// When a file can't be read or written.
pub fn start(seeds: fn() -> Vec<Seed>) {
    // Parallel loops run on this thread: what a target does depends on its input alone.
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()
        .expect("no pool was made before");
    if let Some(folder) = std::env::var_os("FUZZ_UNPACK") {
        unpack(Path::new(&folder), seeds()).expect("the corpus is written");
        std::process::exit(0);
    }
    if let Some(folder) = std::env::var_os("FUZZ_PACK") {
        pack(Path::new(&folder)).expect("the corpus is read");
        std::process::exit(0);
    }
}

fn unpack(folder: &Path, seeds: Vec<Seed>) -> std::io::Result<()> {
    for (name, bytes) in seeds {
        std::fs::write(folder.join(format!("seed-{name}")), bytes)?;
    }
    for (number, line) in std::io::stdin().lines().enumerate() {
        std::fs::write(
            folder.join(format!("line-{}", number + 1)),
            bytes_of(&line?),
        )?;
    }
    Ok(())
}

fn pack(folder: &Path) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for file in std::fs::read_dir(folder)? {
        lines.push(line_of(&std::fs::read(file?.path())?));
    }
    // In an order that depends on the contents alone.
    lines.sort();
    lines.dedup();
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn line_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut line, &byte| {
        match byte {
            b' '..=b'~' if byte != b'\\' => line.push(char::from(byte)),
            // Writing into a string can't fail.
            _ => drop(write!(line, "\\{byte:02x}")),
        }
        line
    })
}

fn bytes_of(line: &str) -> Vec<u8> {
    let mut parts = line.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, plain) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
        bytes.extend_from_slice(plain.as_bytes());
    }
    bytes
}
