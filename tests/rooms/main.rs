//! The order of the folders of `backend/src`: which of them may use which, and no circles of files.
//!
//! A file depends on each file that it names by a path: in a `use`, in code, or within a macro.
//! Unit tests are not counted.

mod dependencies;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dependencies::dependencies;
use source::Sources;

/// The folders and files at the root, in levels. Each may use those of later levels, none of its
/// own level or of an earlier one.
const LEVELS: [&[&str]; 8] = [
    &["command"],
    &["control"],
    &["session"],
    &["worker"],
    &["device"],
    &["storage", "guest"],
    &["metrics", "inbox"],
    &["report"],
];

type Graph = BTreeMap<String, BTreeSet<String>>;

fn level_of(file: &str) -> usize {
    let room = file.split(['/', '.']).next().unwrap_or_default();
    LEVELS
        .iter()
        .position(|level| level.contains(&room))
        .unwrap_or_else(|| panic!("{file} is in no level: add {room} to LEVELS, where it belongs"))
}

fn is_same_room(a: &str, b: &str) -> bool {
    a.split(['/', '.']).next() == b.split(['/', '.']).next()
}

/// Dependencies that lead back to an earlier level, or across one.
fn wrong_ways(graph: &Graph) -> Vec<String> {
    let edges = graph.iter().flat_map(|(from, uses)| uses.iter().map(move |to| (from, to)));
    edges
        .filter(|(from, to)| !is_same_room(from, to) && level_of(from) >= level_of(to))
        .map(|(from, to)| format!("{from} uses {to}"))
        .collect()
}

/// A circle of files, as one line, if there is one.
fn circle(graph: &Graph) -> Option<String> {
    fn visit<'a>(
        graph: &'a Graph,
        file: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|it| *it == file) {
            return Some([&way[start..], &[file]].concat().join(" -> "));
        }
        if done.contains(file) {
            return None;
        }
        way.push(file);
        let found = graph.get(file).into_iter().flatten().find_map(|next| visit(graph, next, way, done));
        way.pop();
        done.insert(file);
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| visit(graph, file, &mut Vec::new(), &mut done))
}

fn graph_of(sources: &Sources) -> Graph {
    sources.modules().map(|module| (sources.file(module).to_owned(), dependencies(sources, module))).collect()
}

fn backend() -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn no_folder_uses_one_that_is_above_it_or_beside_it() {
    let wrong = wrong_ways(&graph_of(&backend()));
    assert!(wrong.is_empty(), "move what is used to a later level:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let circle = circle(&graph_of(&backend()));
    assert!(circle.is_none(), "move what is used to a file of its own: {}", circle.unwrap_or_default());
}

#[test]
fn the_root_has_four_files_at_most() {
    let sources = backend();
    let root: Vec<_> = sources.files().filter(|file| !file.contains('/')).collect();
    assert!(root.len() <= 4, "{root:?}: put new files into a folder");
}

#[test]
fn a_use_that_leads_back_is_found() {
    for wrong in [
        "use crate::control::Status;",
        "use crate::{inbox::Inbox, control};",
        "fn f() { crate::control::start() }",
        "fn f() { println!(\"{}\", crate::control::start()) }",
        "#[error(\"{}\", crate::control::start())] struct S;",
    ] {
        let sources = Sources::of(&[
            ("lib.rs", "pub mod control; pub mod device; pub mod inbox;"),
            ("control.rs", "pub struct Status; pub fn start() {}"),
            ("device.rs", wrong),
            ("inbox.rs", "pub struct Inbox;"),
        ]);
        assert_eq!(wrong_ways(&graph_of(&sources)), ["device.rs uses control.rs"], "{wrong}");
    }
}

#[test]
fn a_use_of_the_room_beside_is_found() {
    let sources = Sources::of(&[("guest.rs", "use crate::storage::*;"), ("storage.rs", "")]);
    assert_eq!(wrong_ways(&graph_of(&sources)), ["guest.rs uses storage.rs"]);
}

#[test]
fn a_re_export_hides_no_circle() {
    let sources = Sources::of(&[
        ("worker/mod.rs", "mod a; mod b; pub use self::a::A; pub use b::B;"),
        ("worker/a.rs", "use super::B; pub struct A;"),
        ("worker/b.rs", "use crate::worker::A; pub struct B;"),
    ]);
    assert_eq!(circle(&graph_of(&sources)).unwrap(), "worker/a.rs -> worker/b.rs -> worker/a.rs");
}

#[test]
fn a_folder_may_give_out_the_names_of_its_files_but_not_use_one_that_uses_it() {
    let a = ("worker/a.rs", "use super::Whole; pub struct A;");
    let gives = Sources::of(&[("worker/mod.rs", "pub use self::a::A; pub struct Whole;"), a]);
    assert_eq!(circle(&graph_of(&gives)), None);
    let uses = Sources::of(&[("worker/mod.rs", "pub use self::a::A; pub struct Whole(A);"), a]);
    assert_eq!(circle(&graph_of(&uses)).unwrap(), "worker/a.rs -> worker/mod.rs -> worker/a.rs");
}

#[test]
fn unit_tests_are_not_counted() {
    let device = "#[cfg(test)] mod tests { use crate::control::Status; }";
    let sources = Sources::of(&[("control.rs", "pub struct Status;"), ("device.rs", device)]);
    assert_eq!(wrong_ways(&graph_of(&sources)), [""; 0]);
}
