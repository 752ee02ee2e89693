//! Prose as a reader sees it: comments without their marks, paragraphs as one line of text.

use crate::tree::Text;

/// Lines that belong together: a paragraph, a run of comment lines, or one line of code.
pub(crate) struct Passage {
    /// The number of its first line, from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// The passages of a file. In Rust, each line of code is a passage of its own; in other files,
/// each run of lines without a blank one is.
pub(crate) fn passages(file: &Text) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut joins = false;
    for (index, line) in file.content.lines().enumerate() {
        let (words, may_join) = match (file.is_rust(), comment(line)) {
            (true, Some(words)) => (words, true),
            (true, None) => (line.trim(), false),
            (false, _) => (line.trim().trim_start_matches("# "), !starts_afresh(line)),
        };
        if words.is_empty() {
            joins = false;
            continue;
        }
        match passages.last_mut() {
            Some(last) if joins && may_join => {
                last.text.push(' ');
                last.text.push_str(words);
            }
            _ => passages.push(Passage { line: index + 1, text: words.to_owned() }),
        }
        joins = may_join || !file.is_rust();
    }
    passages
}

/// The words of a line that is only a comment.
pub(crate) fn comment(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.trim_start_matches(['/', '!']).trim())
}

/// Whether a line of Markdown begins a row, an item or a heading.
fn starts_afresh(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with(['|', '#', '-', '*']) || line.starts_with("```")
}

#[test]
fn a_paragraph_is_joined_and_code_is_not() {
    let content = "/// One\n/// two.\nfn f() {}\nfn g() {}\n\n// three\n// four\n";
    let file = Text { path: "a.rs".into(), content: content.to_owned() };
    let texts: Vec<_> = passages(&file).into_iter().map(|it| (it.line, it.text)).collect();
    let expected = [(1, "One two."), (3, "fn f() {}"), (4, "fn g() {}"), (6, "three four")];
    assert_eq!(texts, expected.map(|(line, text)| (line, text.to_owned())));
}

#[test]
fn rows_and_items_are_passages_of_their_own() {
    let content = "One\ntwo.\n\n- three\n  four\n- five\n";
    let file = Text { path: "a.md".into(), content: content.to_owned() };
    let texts: Vec<_> = passages(&file).into_iter().map(|it| it.text).collect();
    assert_eq!(texts, ["One two.", "- three four", "- five"]);
}
