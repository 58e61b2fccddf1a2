//! Rules about the text of one Rust source. What the compiler and clippy can see is theirs.

use super::{Finding, about, at, code};

/// From here on somebody should ask why the file is that long.
pub(super) const QUESTION: usize = 400;

/// From here on nobody needs to ask.
const ANSWER: usize = 1000;

/// Every file says what it is responsible for.
pub(super) fn files_open_with_a_doc_comment(path: &str, text: &str) -> Vec<Finding> {
    if text.starts_with("//! ") {
        return Vec::new();
    }
    vec![about(
        path,
        "does not open with `//!`: what it is responsible for, and one thing it deliberately is not",
    )]
}

/// No file is longer than a reader can hold.
pub(super) fn files_are_at_most_1000_lines(path: &str, text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    if lines <= ANSWER {
        return Vec::new();
    }
    vec![about(path, format!("has {lines} lines; split it by noun below {ANSWER}"))]
}

/// A promise that nobody tracks is not kept.
pub(super) fn promises_have_a_number(path: &str, text: &str) -> Vec<Finding> {
    let promises = [concat!("TO", "DO"), concat!("FIX", "ME")];
    text.lines()
        .enumerate()
        .filter(|(_, line)| {
            promises.iter().any(|word| code::has_word(line, word) && !line.contains(&format!("{word}(#")))
        })
        .map(|(index, _)| at(path, index + 1, "a promise without an issue number, as in `(#12)`"))
        .collect()
}

/// A test that is not run says why.
pub(super) fn attributes_that_ignore_give_a_reason(path: &str, text: &str) -> Vec<Finding> {
    code::lines(text)
        .into_iter()
        .filter(|(_, code)| code.replace(' ', "").contains("#[ignore]"))
        .map(|(line, _)| at(path, line, "`ignore` without a reason"))
        .collect()
}

/// True if `text` has the keyword outside comments and literals.
fn mentions_unsafe(text: &str) -> bool {
    code::lines(text).iter().any(|(_, code)| code::has_word(code, "unsafe"))
}

/// The folders whose modules may keep raw system calls, each in a file of its own.
const WITH_SYSTEM_CALLS: [&str; 5] = [
    "spectrum-proxy/src/",
    "spectrum-steering/src/",
    "spectrum-user/src/",
    "spectrum-user/benches/load/",
    "xtask/bench/src/",
];

/// Code that the compiler cannot check is in few, known places.
pub(super) fn unsafe_stays_where_it_is_allowed(path: &str, text: &str) -> Vec<Finding> {
    let allowed = path.starts_with("spectrum-ebpf/")
        || path == "spectrum-common/src/pod.rs"
        || (WITH_SYSTEM_CALLS.iter().any(|folder| path.starts_with(folder)) && path.ends_with("/sys.rs"));
    if allowed || !mentions_unsafe(text) {
        return Vec::new();
    }
    vec![about(
        path,
        "has unsafe code; only spectrum-ebpf, spectrum-common/src/pod.rs and a module's sys.rs of raw system calls may",
    )]
}

/// Direction marks and empty spaces make code that is not what it seems.
pub(super) fn lines_have_no_invisible_characters(path: &str, text: &str) -> Vec<Finding> {
    let misleads = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.contains(misleads))
        .map(|(index, _)| at(path, index + 1, "has an invisible character"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_what_it_is_for() {
        assert!(files_open_with_a_doc_comment("a.rs", "//! What.\n#![no_std]\n").is_empty());
        assert_eq!(files_open_with_a_doc_comment("a.rs", "#![no_std]\n//! What.\n").len(), 1);
        assert_eq!(files_open_with_a_doc_comment("a.rs", "").len(), 1);
    }

    #[test]
    fn a_thousand_lines_are_the_limit() {
        assert!(files_are_at_most_1000_lines("a.rs", &"\n".repeat(1000)).is_empty());
        assert_eq!(files_are_at_most_1000_lines("a.rs", &"\n".repeat(1001)).len(), 1);
    }

    #[test]
    fn a_promise_needs_a_number() {
        let promise = |after: &str| format!("// {}{after}\n", concat!("TO", "DO"));
        assert_eq!(promises_have_a_number("a.rs", &promise(": later")).len(), 1);
        assert!(promises_have_a_number("a.rs", &promise("(#12): later")).is_empty());
    }

    #[test]
    fn an_ignored_test_gives_a_reason() {
        assert_eq!(attributes_that_ignore_give_a_reason("a.rs", "#[ignore]\nfn t() {}\n").len(), 1);
        assert!(attributes_that_ignore_give_a_reason("a.rs", "#[ignore = \"#3\"]\nfn t() {}\n").is_empty());
    }

    #[test]
    fn unsafe_code_is_found_outside_its_places() {
        let text = "fn f() { unsafe { g() } }\n";
        assert_eq!(unsafe_stays_where_it_is_allowed("xtask/src/main.rs", text).len(), 1);
        assert_eq!(unsafe_stays_where_it_is_allowed("spectrum-proxy/src/relay.rs", text).len(), 1);
        assert!(unsafe_stays_where_it_is_allowed("spectrum-proxy/src/sys.rs", text).is_empty());
        assert!(unsafe_stays_where_it_is_allowed("spectrum-ebpf/src/main.rs", text).is_empty());
        assert!(unsafe_stays_where_it_is_allowed("xtask/src/main.rs", "// unsafe in words\n").is_empty());
    }

    #[test]
    fn an_invisible_character_is_found() {
        assert_eq!(lines_have_no_invisible_characters("a.rs", "let a\u{200b} = 1;\n").len(), 1);
        assert!(lines_have_no_invisible_characters("a.rs", "// naïve → fine\n").is_empty());
    }
}
