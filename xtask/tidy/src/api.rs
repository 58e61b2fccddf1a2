//! The public API of a library as text, a line an item, to be compared with the one that was written down. Reads what rustfmt has
//! formatted, and counts on rustc's `unreachable_pub`: whatever is `pub` can be reached. Follows no re-export to its end.

use std::collections::BTreeSet;

use super::{Finding, about, code};

/// The libraries whose API is written down.
const LIBRARIES: [&str; 2] = ["spectrum-proxy", "spectrum-steering"];

/// The file in a library's folder that has its API.
const FILE: &str = "public-api.txt";

/// The APIs of the libraries, as their sources have them.
#[derive(Debug)]
pub(super) struct Apis([BTreeSet<String>; LIBRARIES.len()]);

impl Default for Apis {
    fn default() -> Self {
        Self([const { BTreeSet::new() }; LIBRARIES.len()])
    }
}

impl Apis {
    /// Reads the public items of the source at `path`.
    pub(super) fn read(&mut self, path: &str, text: &str) {
        let Some((krate, inner)) = path.split_once("/src/") else { return };
        let Some(library) = LIBRARIES.iter().position(|library| *library == krate) else { return };
        if inner.ends_with("tests.rs") {
            return;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<String> = code::lines(product).into_iter().map(|(_, code)| code).collect();
        let module = inner.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        for item in items(&lines.join("\n")) {
            self.0[library].extend(item.public().into_iter().map(|line| format!("{module}: {line}")));
        }
    }

    /// The file of each library, by its path from the root, and what it has to say.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, String)> {
        LIBRARIES.iter().zip(&self.0).map(|(library, lines)| {
            (format!("{library}/{FILE}"), lines.iter().fold(String::new(), |text, line| text + line + "\n"))
        })
    }

    /// The differences to what was written down: `written` reads a file.
    pub(super) fn findings(&self, written: impl Fn(&str) -> String) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (path, text) in self.files() {
            let before = written(&path);
            let (before, now): (BTreeSet<&str>, BTreeSet<&str>) =
                (before.lines().collect(), text.lines().collect());
            let gone = before.difference(&now).map(|line| format!("- {line}"));
            let new = now.difference(&before).map(|line| format!("+ {line}"));
            let differences: Vec<String> = gone.chain(new).collect();
            if !differences.is_empty() {
                let said = differences.join("\n    ");
                findings.push(about(
                    &path,
                    format!("the public API is another; if it is meant, `cargo xtask lint --renew-api`\n    {said}"),
                ));
            }
        }
        findings
    }
}

/// An item: what stands before its body, and that.
#[derive(Debug, Eq, PartialEq)]
struct Item {
    /// On one line, with the derives before it.
    head: String,
    body: String,
}

impl Item {
    /// The lines that others can use.
    fn public(&self) -> Vec<String> {
        let head = self.head.as_str();
        let (derives, plain) = match head.find("] ").filter(|_| head.starts_with("#[derive")) {
            Some(end) => head.split_at(end + 2),
            None => ("", head),
        };
        if let Some(of) = plain.strip_prefix("impl").filter(|rest| rest.starts_with([' ', '<'])) {
            if of.contains(" for ") {
                return Vec::new();
            }
            let of = of.trim();
            let inner = items(&self.body).into_iter().filter(|item| item.head.starts_with("pub "));
            return inner.map(|item| format!("impl {of} {{ {} }}", declared(&item.head))).collect();
        }
        let Some(rest) = plain.strip_prefix("pub ") else { return Vec::new() };
        // What a tuple holds is its own business unless it says `pub`.
        if let Some((named, fields)) = plain.split_once('(').filter(|(named, _)| named.contains(" struct ")) {
            let fields = if fields.contains("pub ") { fields } else { "_)" };
            return vec![format!("{derives}{named}({fields}")];
        }
        let inner = match rest.split(' ').next() {
            Some("struct") => parts(&self.body).filter(|part| part.starts_with("pub ")).collect(),
            Some("enum") => parts(&self.body).collect::<Vec<_>>(),
            Some("trait") => items(&self.body).into_iter().map(|item| item.head).collect(),
            _ => return vec![declared(head)],
        };
        let braces = if inner.is_empty() { String::new() } else { format!(" {{ {} }}", inner.join(", ")) };
        vec![format!("{derives}{plain}{braces}")]
    }
}

/// A head without the value of a constant.
fn declared(head: &str) -> String {
    head.split(" = ").next().filter(|_| head.contains("const ")).unwrap_or(head).to_owned()
}

/// The items of `code`, one after the other.
fn items(code: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rest = code.trim_start();
    let mut derives = String::new();
    while !rest.is_empty() {
        if rest.starts_with('#') {
            let end = end_of(rest, &[']']);
            let attribute = &rest[..end];
            if attribute.starts_with("#[derive") {
                derives = format!("{} ", one_line(attribute));
            }
            rest = rest[end..].trim_start();
            continue;
        }
        let is_list = rest.starts_with("pub use ") || rest.starts_with("use ");
        let end = end_of(rest, if is_list { &[';'] } else { &[';', '{', '='] });
        let (mut head, mut body, mut next) = (&rest[..end], "", end);
        match head.chars().next_back() {
            Some('{') => {
                next = end - 1 + end_of(&rest[end - 1..], &['}']);
                body = rest.get(end..next - 1).unwrap_or_default();
            }
            Some('=') => {
                next = end_of(rest, &[';']);
                head = &rest[..next];
            }
            _ => {}
        }
        let head = one_line(head.trim_end_matches(['{', ';']));
        items.push(Item { head: std::mem::take(&mut derives) + &head, body: body.to_owned() });
        rest = rest[next..].trim_start();
    }
    items
}

/// Fields or variants, without their attributes.
fn parts(body: &str) -> impl Iterator<Item = String> {
    let mut rest = body.trim_start();
    std::iter::from_fn(move || {
        while rest.starts_with('#') {
            rest = rest[end_of(rest, &[']'])..].trim_start();
        }
        let end = end_of(rest, &[',']);
        let part = rest.get(..end).filter(|part| !part.is_empty())?;
        rest = rest[end..].trim_start();
        Some(part)
    })
    .map(|part| match part.trim_end_matches(',').split_once('{') {
        // The fields of a variant.
        Some((name, fields)) => {
            let fields: Vec<String> = parts(fields.trim_end().trim_end_matches('}')).collect();
            format!("{}{{ {} }}", one_line(name) + " ", fields.join(", "))
        }
        None => one_line(part.trim_end_matches(',')),
    })
}

/// The place behind the first of `ends` that stands within no brackets, or closes them.
fn end_of(text: &str, ends: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut angles = 0_usize;
    let mut before = ' ';
    for (index, c) in text.char_indices() {
        let closes = matches!(c, ')' | ']' | '}');
        depth = depth.saturating_sub(usize::from(closes));
        match c {
            '<' => angles += 1,
            '>' if !matches!(before, '-' | '=') => angles = angles.saturating_sub(1),
            _ => {}
        }
        // An equals sign in generics, or of `==` and `=>`, ends nothing, nor does a comma in generics.
        let is_end = depth == 0 && ends.contains(&c) && (angles == 0 || !matches!(c, ',' | '='));
        if is_end {
            return index + c.len_utf8();
        }
        depth += usize::from(matches!(c, '(' | '[' | '{'));
        before = c;
    }
    text.len()
}

fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .replace("( ", "(")
        .replace(", )", ")")
        .replace(",)", ")")
        .replace(", }", "}")
        .replace("{ ", "{")
        .replace(" }", "}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(text: &str) -> Vec<String> {
        let mut apis = Apis::default();
        apis.read("spectrum-proxy/src/a.rs", text);
        apis.0.into_iter().flatten().collect()
    }

    #[test]
    fn what_others_can_use_is_listed_without_bodies() {
        for (text, expected) in [
            (
                "/// A.\npub fn a(\n    b: &[u8; 4],\n) -> Vec<u8> {\n    if a == b { c }\n}\n",
                "a: pub fn a(b: &[u8; 4]) -> Vec<u8>",
            ),
            (
                "#[derive(Clone)]\n#[must_use]\npub struct A {\n    /// B.\n    pub b: u8,\n    c: u8,\n}\n",
                "a: #[derive(Clone)] pub struct A { pub b: u8 }",
            ),
            ("pub struct A(pub u8);\n", "a: pub struct A(pub u8)"),
            ("pub struct A(u8);\n", "a: pub struct A(_)"),
            (
                "pub enum A {\n    /// B.\n    #[error(\"x {y}\")]\n    B { c: Map<u8, u8>, d: u8 },\n    E(u8),\n}\n",
                "a: pub enum A { B { c: Map<u8, u8>, d: u8 }, E(u8) }",
            ),
            (
                "impl<T> A<T> {\n    /// B.\n    pub const B: u8 = C { d: 1 };\n    fn e() {}\n}\n",
                "a: impl <T> A<T> { pub const B: u8 }",
            ),
            ("pub trait A {\n    fn b(&self) -> u8;\n}\n", "a: pub trait A { fn b(&self) -> u8 }"),
            ("pub use b::{\n    C, D,\n};\n", "a: pub use b::{C, D}"),
        ] {
            assert_eq!(api(text), [expected]);
        }
    }

    #[test]
    fn what_is_the_library_s_own_is_not() {
        for text in [
            "pub(crate) fn a() {}\n",
            "struct A {\n    pub b: u8,\n}\n",
            "impl fmt::Display for A {\n    fn fmt(&self) {}\n}\n",
            "#[cfg(test)]\nmod tests {\n    pub fn a() {}\n}\n",
        ] {
            assert_eq!(api(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_difference_is_found_with_its_cure() {
        let mut apis = Apis::default();
        apis.read("spectrum-steering/src/a.rs", "pub fn new() {}\n");
        let written = |path: &str| {
            if path.starts_with("spectrum-steering") { "a: pub fn old()\n".to_owned() } else { String::new() }
        };
        let [finding] = &apis.findings(written)[..] else { panic!("one library differs") };
        let shown = finding.to_string();
        assert!(shown.contains("--renew-api"), "{shown}");
        assert!(shown.ends_with("    - a: pub fn old()\n    + a: pub fn new()"), "{shown}");
    }
}
