//! The text files of the tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders without text of ours: build output, version control, inputs found by fuzzers.
const SKIPPED: [&str; 4] = ["target", ".git", "corpus", "artifacts"];

/// A text file of the tree.
pub(crate) struct Text {
    /// Its path from the root of the tree.
    pub(crate) path: PathBuf,
    pub(crate) content: String,
}

impl Text {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|it| it == "rs")
    }
}

/// The root of the tree.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All files of the tree whose name `is_wanted`, in the order of their paths.
pub(crate) fn files(is_wanted: impl Fn(&Path) -> bool) -> Vec<Text> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                if !SKIPPED.iter().any(|it| entry.file_name() == *it) {
                    folders.push(path);
                }
            } else if kind.is_file() && is_wanted(&path) {
                let content = fs::read_to_string(&path).unwrap();
                found.push(Text { path: path.strip_prefix(&root).unwrap().to_owned(), content });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file of the tree was found below {}", root.display());
    found
}

/// The Rust sources of the tree.
pub(crate) fn rust() -> Vec<Text> {
    files(|path| path.extension().is_some_and(|it| it == "rs"))
}
