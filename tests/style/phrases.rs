//! Phrases that this project does not use, and what to write instead (`phrases.txt`).

use std::path::Path;

use regex::Regex;

use crate::prose::passages;
use crate::tree::{self, Text};

/// One phrase to a line: a regular expression, a tab, and the cure.
const PHRASES: &str = include_str!("phrases.txt");

struct Phrase {
    pattern: Regex,
    cure: &'static str,
}

fn phrases() -> Vec<Phrase> {
    let lines = PHRASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let phrase = |line: &'static str| {
        let (pattern, cure) = line.split_once('\t').unwrap_or_else(|| panic!("no tab: {line}"));
        let pattern = Regex::new(&format!("(?i){pattern}"));
        Phrase { pattern: pattern.unwrap(), cure: cure.trim_start() }
    };
    lines.map(phrase).collect()
}

/// The files that have the phrases by necessity.
const LISTS: [&str; 2] = ["tests/style/phrases.txt", "tests/style/phrases.rs"];

/// Files in which people read sentences.
fn is_prose(path: &Path) -> bool {
    let kinds = ["rs", "md", "toml", "service", "socket", "json", "txt", "yml", "sh", "py"];
    match path.extension() {
        Some(kind) => kinds.iter().any(|it| kind == *it) && !LISTS.iter().any(|it| path.ends_with(it)),
        None => path.ends_with("Makefile") || path.parent().is_some_and(|it| it.ends_with("scripts")),
    }
}

fn found_in(file: &Text, phrases: &[Phrase]) -> Vec<String> {
    let mut found = Vec::new();
    for passage in passages(file) {
        for Phrase { pattern, cure } in phrases {
            if let Some(hit) = pattern.find(&passage.text) {
                let (path, line, phrase) = (file.path.display(), passage.line, hit.as_str().trim());
                found.push(format!("{path}:{line}: \"{phrase}\": {cure}"));
            }
        }
    }
    found
}

#[test]
fn the_tree_is_in_plain_english() {
    let phrases = phrases();
    let files = tree::files(is_prose);
    let found: Vec<_> = files.iter().flat_map(|file| found_in(file, &phrases)).collect();
    assert!(found.is_empty(), "{} phrases to say plainly:\n{}", found.len(), found.join("\n"));
}

#[test]
fn each_banned_kind_of_sentence_is_found() {
    let phrases = phrases();
    for (wrong, right) in [
        ("// Who asks is told by whom.", "// The caller is notified."),
        ("// What is read is verified.", "// Data that was read is verified."),
        ("// It waits; what comes is served.", "// It waits, and serves each request that comes."),
        ("// Starts anew.", "// Starts again."),
        ("// The driver waits\n// in vain.", "// The driver waits without success."),
        ("let was_told = true;", "let was_reported = true;"),
        ("struct Errand;", "struct Job;"),
        ("// A queue so long waits.", "// A queue waits as long as the driver does."),
        ("// The worker goes on.", "// The worker continues."),
        ("// In bytes.", "// The size in bytes."),
    ] {
        let file = |text: &str| Text { path: "a.rs".into(), content: text.to_owned() };
        assert_eq!(found_in(&file(wrong), &phrases).len().min(1), 1, "{wrong}");
        assert_eq!(found_in(&file(right), &phrases), [""; 0], "{right}");
    }
}
