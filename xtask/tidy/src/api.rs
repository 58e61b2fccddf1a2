//! The public API of a library as text, a line an item, to be compared with the one that was written down. Reads what rustfmt has
//! formatted, and what is offered by name at the root or in a module that is open; what is `#[doc(hidden)]` is promised to nobody.
//! Follows no re-export under another name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, about, code};

/// The libraries whose API is written down.
const LIBRARIES: [&str; 2] = ["spectrum-proxy", "spectrum-steering"];

/// The file in a library's folder that has its API.
const FILE: &str = "public-api.txt";

/// The crate whose words the libraries pass on as their own.
const WORDS: &str = "spectrum-common";

/// The APIs of the libraries, as their sources have them.
#[derive(Debug, Default)]
pub(super) struct Apis {
    /// The public items, by the crate.
    lines: BTreeMap<String, Vec<Line>>,
    /// The names that a library's modules re-export, each with the module.
    passed_on: BTreeMap<String, Vec<(String, String)>>,
    /// The modules of a library that anybody may look into.
    open: BTreeMap<String, BTreeSet<String>>,
    /// The types that are hidden, by the crate, and so all that is implemented for them.
    hidden: BTreeSet<(String, String)>,
}

/// A public item, or part of one.
#[derive(Debug)]
struct Line {
    module: String,
    /// The item that it is, or belongs to.
    owner: String,
    text: String,
}

impl Apis {
    /// Reads the public items of the source at `path`.
    pub(super) fn read(&mut self, path: &str, text: &str) {
        let Some((krate, inner)) = path.split_once("/src/") else { return };
        if !LIBRARIES.contains(&krate) && krate != WORDS || inner.ends_with("tests.rs") {
            return;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<String> = code::lines(product).into_iter().map(|(_, code)| code).collect();
        let module = inner.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        for item in items(&lines.join("\n")) {
            let owner = item.owner();
            if item.is_hidden {
                if item.is_type() {
                    self.hidden.insert((krate.to_owned(), owner));
                }
                continue;
            }
            if let Some(open) = item.head.strip_prefix("pub mod ").filter(|_| module == "lib") {
                self.open.entry(krate.to_owned()).or_default().insert(open.to_owned());
            }
            let passed_on = item.passed_on().into_iter().map(|name| (module.to_owned(), name));
            self.passed_on.entry(krate.to_owned()).or_default().extend(passed_on);
            let line = |text| Line { module: module.to_owned(), owner: owner.clone(), text };
            self.lines.entry(krate.to_owned()).or_default().extend(item.public().into_iter().map(line));
        }
    }

    /// The lines of `library` that are promised: those of its root, of open modules, and of what is offered at the root, whether
    /// it is defined in the library or in the crate of common words.
    fn promised(&self, library: &str) -> BTreeSet<String> {
        let is_open = |module: &String| {
            module == "lib" || self.open.get(library).is_some_and(|open| open.contains(module))
        };
        let passed_on = self.passed_on.get(library).into_iter().flatten();
        let offered: BTreeSet<&String> =
            passed_on.filter(|(module, _)| is_open(module)).map(|(_, name)| name).collect();
        let is_offered = |line: &&Line| offered.contains(&line.owner);
        let own = self.lines.get(library).into_iter().flatten();
        let is_hidden = |line: &&Line| self.hidden.contains(&(library.to_owned(), line.owner.clone()));
        let own = own.filter(|line| (is_open(&line.module) || is_offered(line)) && !is_hidden(line));
        let common = self.lines.get(WORDS).into_iter().flatten().filter(is_offered);
        own.chain(common).map(|Line { module, text, .. }| format!("{module}: {text}")).collect()
    }

    /// The file of each library, by its path from the root, and what it has to say.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, String)> {
        LIBRARIES.iter().map(|library| {
            let lines = self.promised(library).into_iter();
            (format!("{library}/{FILE}"), lines.fold(String::new(), |text, line| text + &line + "\n"))
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
    is_hidden: bool,
}

impl Item {
    /// The head without the derives.
    fn plain(&self) -> &str {
        match self.head.find("] ").filter(|_| self.head.starts_with("#[derive")) {
            Some(end) => &self.head[end + 2..],
            None => &self.head,
        }
    }

    /// The name of what it defines, or is an implementation of.
    fn owner(&self) -> String {
        let plain = self.plain();
        let named = match plain.strip_prefix("impl") {
            // Behind the generics, if it has any.
            Some(of) if of.starts_with('<') => of.split_once("> ").map_or(of, |(_, of)| of),
            Some(of) => of,
            None => {
                let is_name = |word: &&str| !["pub", "async", "const", "unsafe"].contains(word);
                let mut words = plain.split(' ').filter(is_name);
                match words.next() {
                    Some("enum" | "fn" | "mod" | "static" | "struct" | "trait" | "type" | "use") => {
                        words.next()
                    }
                    name => name,
                }
                .unwrap_or_default()
            }
        };
        let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
        named.trim_start().chars().take_while(is_name).collect()
    }

    /// True if it defines a type.
    fn is_type(&self) -> bool {
        ["struct ", "enum "]
            .iter()
            .any(|keyword| self.plain().strip_prefix("pub ").is_some_and(|rest| rest.starts_with(keyword)))
    }

    /// The names that it re-exports.
    fn passed_on(&self) -> Vec<String> {
        let Some(list) = self.head.strip_prefix("pub use ") else { return Vec::new() };
        let list = list.rsplit("::").next().unwrap_or(list).trim_matches(['{', '}']);
        list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }

    /// The lines that others can use.
    fn public(&self) -> Vec<String> {
        let (head, plain) = (self.head.as_str(), self.plain());
        let derives = &head[..head.len() - plain.len()];
        if let Some(of) = plain.strip_prefix("impl").filter(|rest| rest.starts_with([' ', '<'])) {
            if of.contains(" for ") {
                return Vec::new();
            }
            let of = of.trim();
            let inner = items(&self.body).into_iter();
            let inner = inner.filter(|item| item.head.starts_with("pub ") && !item.is_hidden);
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
    let mut is_hidden = false;
    while !rest.is_empty() {
        if rest.starts_with('#') {
            let end = end_of(rest, &[']']);
            let attribute = &rest[..end];
            is_hidden |= attribute == "#[doc(hidden)]";
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
        let head = std::mem::take(&mut derives) + &head;
        items.push(Item { head, body: body.to_owned(), is_hidden: std::mem::take(&mut is_hidden) });
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
        apis.read("spectrum-proxy/src/lib.rs", "pub mod a;\n");
        apis.read("spectrum-proxy/src/a.rs", text);
        apis.promised("spectrum-proxy").into_iter().filter(|line| line.starts_with("a: ")).collect()
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
            "/// A.\n#[doc(hidden)]\npub fn a() {}\n",
            "#[doc(hidden)]\nimpl A {\n    pub fn a() {}\n}\n",
            "impl A {\n    #[doc(hidden)]\n    pub fn a() {}\n}\n",
            "#[doc(hidden)]\n#[derive(Debug)]\npub struct A;\nimpl A {\n    pub fn a() {}\n}\n",
        ] {
            assert_eq!(api(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn of_hidden_modules_and_of_common_words_is_promised_what_is_offered_at_the_root() {
        let mut apis = Apis::default();
        let root = "#[doc(hidden)]\npub mod a;\npub use a::{A, W};\n#[doc(hidden)]\npub use a::H;\n";
        apis.read("spectrum-proxy/src/lib.rs", root);
        let text = "pub use spectrum_common::{V, W};\npub struct A;\npub struct H;\npub fn f() {}\nimpl<T> A<T> {\n    pub fn g() {}\n}\n";
        apis.read("spectrum-proxy/src/a.rs", text);
        apis.read("spectrum-common/src/w.rs", "pub enum W {}\npub struct U;\n");
        let expected =
            ["a: impl <T> A<T> { pub fn g() }", "a: pub struct A", "lib: pub use a::{A, W}", "w: pub enum W"];
        assert_eq!(Vec::from_iter(apis.promised("spectrum-proxy")), expected);
    }

    #[test]
    fn a_difference_is_found_with_its_cure() {
        let mut apis = Apis::default();
        apis.read("spectrum-steering/src/lib.rs", "pub fn new() {}\n");
        let written = |path: &str| {
            if path.starts_with("spectrum-steering") {
                "lib: pub fn old()\n".to_owned()
            } else {
                String::new()
            }
        };
        let [finding] = &apis.findings(written)[..] else { panic!("one library differs") };
        let shown = finding.to_string();
        assert!(shown.contains("--renew-api"), "{shown}");
        assert!(shown.ends_with("    - lib: pub fn old()\n    + lib: pub fn new()"), "{shown}");
    }
}
