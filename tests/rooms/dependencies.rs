//! The files that a module names by paths.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use crate::source::{Module, Sources};

/// The files that `module` depends on, itself not counted.
pub(crate) fn dependencies(sources: &Sources, module: &Module) -> BTreeSet<String> {
    let mut named = Named::default();
    sources.items(module).iter().for_each(|item| named.visit_item(item));
    let uses = uses_of(sources, module);
    // a name that a module gives out is no use of it, unless its own code has the name too
    let by_use = uses.iter().filter(|it| !it.is_given_out || named.first_words.contains(&it.name));
    let by_use = by_use.filter_map(|it| absolute(sources, module, &it.path));
    let by_path = named.paths.iter().filter(|path| starts_at_a_module(path));
    let by_path = by_path.filter_map(|path| absolute(sources, module, path));
    by_use
        .chain(by_path)
        .map(|path| resolve(sources, &path, 0))
        .filter(|target| target != module && !target.is_empty())
        .map(|target| sources.file(&target).to_owned())
        .collect()
}

/// A name that a `use` brings into a module.
struct Use {
    /// `*` for all names.
    name: String,
    path: Vec<String>,
    /// A public `use` of a part of the module itself.
    is_given_out: bool,
}

fn uses_of(sources: &Sources, module: &[String]) -> Vec<Use> {
    let mut uses = Vec::new();
    for item in sources.items(module) {
        let syn::Item::Use(item) = item else { continue };
        if is_for_tests(&item.attrs) {
            continue;
        }
        let first = uses.len();
        flatten(&item.tree, &mut Vec::new(), &mut uses);
        for it in &mut uses[first..] {
            let target = absolute(sources, module, &it.path).unwrap_or_default();
            let is_below = target.len() > module.len() && target.starts_with(module);
            it.is_given_out = is_below && !matches!(item.vis, syn::Visibility::Inherited);
        }
    }
    uses
}

fn flatten(tree: &syn::UseTree, path: &mut Vec<String>, uses: &mut Vec<Use>) {
    let mut push = |name: String, path: Vec<String>| uses.push(Use { name, path, is_given_out: false });
    match tree {
        syn::UseTree::Path(part) => {
            path.push(part.ident.to_string());
            flatten(&part.tree, path, uses);
            path.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, path, uses)),
        syn::UseTree::Glob(_) => push("*".to_owned(), path.clone()),
        syn::UseTree::Name(last) if last.ident == "self" => {
            push(path.last().cloned().unwrap_or_default(), path.clone());
        }
        syn::UseTree::Name(last) => {
            let name = last.ident.to_string();
            push(name.clone(), [path.as_slice(), &[name]].concat());
        }
        syn::UseTree::Rename(last) => {
            push(last.rename.to_string(), [path.as_slice(), &[last.ident.to_string()]].concat());
        }
    }
}

fn starts_at_a_module(path: &[String]) -> bool {
    path.len() > 1 && ["crate", "super", "self"].contains(&path[0].as_str())
}

/// `path`, as `module` has it, from the root of the crate; none where it leads into another crate.
fn absolute(sources: &Sources, module: &[String], path: &[String]) -> Option<Vec<String>> {
    let (first, mut rest) = path.split_first()?;
    let mut at = module.to_vec();
    match first.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            at.pop();
            while let Some((up, after)) = rest.split_first().filter(|(up, _)| *up == "super") {
                debug_assert_eq!(up, "super");
                at.pop();
                rest = after;
            }
        }
        child => {
            at.push(child.to_owned());
            return sources.has(&at).then(|| [&at, rest].concat());
        }
    }
    Some([&at, rest].concat())
}

/// The module that has what `path` names: through what others give out, to where it is.
fn resolve(sources: &Sources, path: &[String], depth: usize) -> Module {
    assert!(depth < 16, "{} is given out in a circle", path.join("::"));
    let len = (0..=path.len()).rev().find(|&len| sources.has(&path[..len])).unwrap_or(0);
    let (module, rest) = path.split_at(len);
    let given = rest.first().and_then(|name| {
        let uses = uses_of(sources, module);
        let it = uses.iter().find(|it| it.name == *name)?;
        absolute(sources, module, &it.path)
    });
    match given {
        Some(target) => resolve(sources, &[&target, &rest[1..]].concat(), depth + 1),
        None => module.to_vec(),
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The paths in the code of a file, its `use` items aside.
#[derive(Default)]
struct Named {
    paths: Vec<Vec<String>>,
    first_words: BTreeSet<String>,
}

impl Named {
    fn add(&mut self, path: Vec<String>) {
        self.first_words.extend(path.first().cloned());
        self.paths.push(path);
    }

    /// The paths in the text of tokens, whose parts have spaces between them.
    fn add_tokens(&mut self, tokens: &str) {
        let mut words = tokens.split([' ', '\n']).peekable();
        while let Some(word) = words.next() {
            let mut path = vec![word.trim_start_matches(['(', '[', '{', '&', '*', '!']).to_owned()];
            while words.next_if_eq(&"::").is_some() {
                path.extend(words.next().map(ToOwned::to_owned));
            }
            self.add(path);
        }
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, _: &'ast syn::ItemUse) {}

    /// `pub(in path)` names no use of the path.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.add_tokens(&it.tokens.to_string());
        visit::visit_macro(self, it);
    }

    fn visit_attribute(&mut self, it: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &it.meta {
            self.add_tokens(&list.tokens.to_string());
        }
    }
}
