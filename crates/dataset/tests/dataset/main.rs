//! Datasets as a person meets them: files go in, shards and a tokenizer come out.
#![expect(clippy::unwrap_used)]

mod bundled;
mod refusals;
mod split;
mod tokenizer;
mod tokens;

use std::path::{Path, PathBuf};

use opengpu_dataset::{DatasetError, Options, Prepared, PreparedPart, TokenStream, prepare};
use tempfile::TempDir;

/// A folder with files in it, and a place for what is made of them.
pub(crate) struct Workplace {
    pub(crate) folder: TempDir,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder }
    }

    pub(crate) fn with(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("in").join(name)
    }

    /// Prepares the whole input folder.
    pub(crate) fn prepare(&self) -> Result<Prepared, DatasetError> {
        self.prepare_only(&[self.folder.path().join("in")], &small())
    }

    pub(crate) fn prepare_only(
        &self,
        inputs: &[PathBuf],
        options: &Options,
    ) -> Result<Prepared, DatasetError> {
        prepare(
            inputs,
            &self.folder.path().join("out"),
            options,
            &mut |_| (),
        )
    }
}

/// A vocabulary that is quick to learn.
pub(crate) fn small() -> Options {
    Options {
        vocab_size: 300,
        ..Options::default()
    }
}

/// Some English of about `bytes` bytes, the same each time.
pub(crate) fn english(bytes: usize) -> String {
    let corpus = std::fs::read_to_string(bundled_corpus()).unwrap();
    corpus[..bytes].to_owned()
}

pub(crate) fn bundled_corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/shakespeare.txt")
}

pub(crate) fn tokens_of(prepared: &Prepared, part: &PreparedPart) -> Vec<u32> {
    let files: Vec<PathBuf> = part.shards.iter().map(|shard| shard.path.clone()).collect();
    let stream = TokenStream::open(&files, prepared.token_bytes, part.tokens).unwrap();
    let mut tokens = vec![0; part.tokens as usize];
    stream
        .with_vocabulary(prepared.vocab_size)
        .read(0, &mut tokens)
        .unwrap();
    tokens
}

/// The tokenizer as every other program loads it.
pub(crate) fn library(prepared: &Prepared) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(&prepared.tokenizer).unwrap()
}

pub(crate) fn text_of(prepared: &Prepared, part: &PreparedPart) -> String {
    library(prepared)
        .decode(&tokens_of(prepared, part), false)
        .unwrap()
}
