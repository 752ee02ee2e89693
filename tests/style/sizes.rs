//! Lengths: of lines of prose, of files, of structs. Lengths of functions are clippy's
//! (`clippy.toml`).

use syn::visit::{self, Visit};

use crate::prose::comment;
use crate::tree::{self, Text};

/// Columns of a line of prose or comment.
const COLUMNS_MAX: usize = 100;
/// Lines of a source file.
const LINES_MAX: usize = 450;
/// Fields of a struct that is not the options of a command.
const FIELDS_MAX: usize = 14;

#[test]
fn comments_fit_into_100_columns() {
    let is_counted = |line: &str| comment(line).is_some_and(is_prose);
    let too_long: Vec<_> = tree::rust().iter().flat_map(|file| lines_too_long(file, is_counted)).collect();
    assert_none(&too_long, "break these comments");
}

#[test]
fn prose_fits_into_100_columns() {
    let documents = tree::files(|path| path.extension().is_some_and(|it| it == "md"));
    let too_long: Vec<_> = documents.iter().flat_map(|file| lines_too_long(file, is_prose)).collect();
    assert_none(&too_long, "break these lines");
}

#[test]
fn files_have_450_lines_at_most() {
    let long = |file: &Text| {
        let lines = file.content.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path.display()))
    };
    let long: Vec<_> = tree::rust().iter().filter_map(long).collect();
    assert_none(&long, "divide these files by their ideas");
}

#[test]
fn structs_have_14_fields_at_most() {
    let mut large = Vec::new();
    for file in tree::rust() {
        let mut structs = Structs::default();
        let parsed = syn::parse_file(&file.content);
        structs.visit_file(&parsed.unwrap_or_else(|error| panic!("{}: {error}", file.path.display())));
        large.extend(structs.large.iter().map(|it| format!("{}: {it}", file.path.display())));
    }
    assert_none(&large, "group the fields of these structs");
}

#[test]
fn a_struct_of_15_fields_is_found_unless_it_is_a_commands_options() {
    let fields = (0..15).map(|it| format!("f{it}: u8,")).collect::<Vec<_>>().concat();
    let large = |code: &str| {
        let mut structs = Structs::default();
        structs.visit_file(&syn::parse_file(code).unwrap());
        structs.large
    };
    assert_eq!(large(&format!("struct S {{ {fields} }}")), ["S has 15 fields"]);
    assert_eq!(large(&format!("#[derive(Debug, clap::Args)] struct S {{ {fields} }}")), [""; 0]);
    assert_eq!(large(&format!("struct S {{ {} }}", fields.trim_start_matches("f0: u8,"))), [""; 0]);
}

fn assert_none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "{what_to_do} ({}):\n{}", found.len(), found.join("\n"));
}

fn lines_too_long(file: &Text, is_counted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut is_code = false;
    let lines = file.content.lines().enumerate().filter(|(_, line)| {
        let words = comment(line).unwrap_or(line);
        is_code ^= words.trim_start().starts_with("```");
        !is_code && line.chars().count() > COLUMNS_MAX && is_counted(line)
    });
    lines.map(|(index, _)| format!("{}:{}", file.path.display(), index + 1)).collect()
}

/// Rows of a table cannot be broken, nor an address or a line of code.
fn is_prose(line: &str) -> bool {
    !line.starts_with('|')
        && !line.starts_with("    ")
        && !line.starts_with("- |")
        && !line.contains("](http")
}

#[derive(Default)]
struct Structs {
    large: Vec<String>,
}

impl<'ast> Visit<'ast> for Structs {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let count = item.fields.len();
        if count > FIELDS_MAX && !is_options(&item.attrs) {
            self.large.push(format!("{} has {count} fields", item.ident));
        }
        visit::visit_item_struct(self, item);
    }
}

/// Whether `clap` fills the struct.
fn is_options(attributes: &[syn::Attribute]) -> bool {
    let derives = attributes.iter().filter(|it| it.path().is_ident("derive"));
    derives.filter_map(|it| it.meta.require_list().ok()).any(|list| {
        let names = list.tokens.to_string();
        names.contains("Args") || names.contains("Parser")
    })
}
