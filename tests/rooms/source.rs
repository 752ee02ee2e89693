//! The source files of a crate, by the modules that they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The path of a module below the crate's root.
pub(crate) type Module = Vec<String>;

/// A file that is a module.
struct Source {
    /// Its path below the crate's root.
    file: String,
    items: syn::File,
}

/// All of a crate but its program.
pub(crate) struct Sources(BTreeMap<Module, Source>);

impl Sources {
    /// The files below `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder of sources") {
                let entry = entry.expect("an entry of a folder of sources");
                let path = folder.join(entry.file_name());
                if entry.file_type().expect("a type of file").is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(root.join(&path)).expect("a source file");
                    files.push((path.to_str().expect("a name in UTF-8").to_owned(), text));
                }
            }
        }
        let files: Vec<_> = files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        Self::of(&files)
    }

    /// Files by their names and texts.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let source = |&(file, text): &(&str, &str)| {
            let items = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            (module_of(file), Source { file: file.to_owned(), items })
        };
        Self(files.iter().map(source).collect())
    }

    /// All files, the program's too.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|source| source.file.as_str())
    }

    /// All modules but the root and the program, which only name the others.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &Module> {
        self.0.keys().filter(|module| !module.is_empty() && module[0] != "main")
    }

    pub(crate) fn has(&self, module: &[String]) -> bool {
        self.0.contains_key(module)
    }

    /// The file of `module`.
    pub(crate) fn file(&self, module: &[String]) -> &str {
        &self.0[module].file
    }

    /// The items of `module`; none if it has no file.
    pub(crate) fn items(&self, module: &[String]) -> &[syn::Item] {
        self.0.get(module).map_or(&[], |source| &source.items.items)
    }
}

fn module_of(file: &str) -> Module {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(ToOwned::to_owned).collect() }
}
