//! The picture of ARCHITECTURE.md and the arrows that there are: each import between modules of spectrum-user and
//! spectrum-steering is drawn, what is drawn is imported, and no way along the arrows comes back to where it began. The proxy is
//! one box, and everybody may use the models.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, about, arrows, at, code};

/// The document that has the picture.
pub(super) const DOCUMENT: &str = "ARCHITECTURE.md";

/// An arrow from who imports to what is imported.
type Arrow = (String, String);

/// Arrows that are drawn and arrows that are found.
#[derive(Debug, Default)]
pub(super) struct Picture {
    drawn: BTreeSet<Arrow>,
    /// With a place of each.
    found: BTreeMap<Arrow, (String, usize)>,
}

impl Picture {
    /// Reads the arrows of the picture in `text`: lines such as `a --> b & c` of its Mermaid block.
    pub(super) fn read_document(&mut self, text: &str) {
        let block = text.lines().skip_while(|line| line.trim() != "```mermaid").skip(1);
        for line in block.take_while(|line| line.trim() != "```") {
            let Some((from, to)) = line.split_once("-->") else { continue };
            let names =
                |side: &str| side.split('&').map(|name| id(name.trim()).to_owned()).collect::<Vec<_>>();
            for from in names(from) {
                self.drawn.extend(names(to).into_iter().map(|to| (from.clone(), to)));
            }
        }
    }

    /// Reads the imports of the source at `path`.
    pub(super) fn read_source(&mut self, path: &str, text: &str) {
        let Some((krate, inner)) = path.split_once("/src/") else { return };
        let module = inner.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let Some(from) = node(krate, module) else { return };
        if from == "proxy" || path.ends_with("/tests.rs") {
            return;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code::lines(product);
        let all = lines.iter().map(|(_, code)| code.as_str()).collect::<Vec<_>>().join("\n");
        for (prefix, other) in [
            ("crate::", krate),
            ("spectrum_user::", "spectrum-user"),
            ("spectrum_steering::", "spectrum-steering"),
            ("spectrum_proxy::", "spectrum-proxy"),
        ] {
            for (start, _) in all.match_indices(prefix) {
                let line = all[..start].matches('\n').count() + 1;
                let imported = arrows::imported(&all[start + prefix.len()..]);
                for to in imported.into_iter().filter_map(|module| node(other, module)) {
                    if to != from {
                        self.found.entry((from.clone(), to)).or_insert_with(|| (path.to_owned(), line));
                    }
                }
            }
        }
    }

    /// The differences between the two.
    pub(super) fn findings(self) -> Vec<Finding> {
        let missing = self.found.iter().filter(|(arrow, _)| !self.drawn.contains(*arrow)).map(
            |((from, to), (path, line))| {
                at(path, *line, format!("the picture of {DOCUMENT} has no arrow {from} --> {to}"))
            },
        );
        let untrue = self.drawn.iter().filter(|arrow| !self.found.contains_key(*arrow)).map(|(from, to)| {
            about(DOCUMENT, format!("the picture has an arrow {from} --> {to}, and nothing imports so"))
        });
        missing.chain(untrue).chain(self.circle()).collect()
    }

    /// What is left of the arrows that are found when those are taken away, again and again, that lead to a box from which none
    /// goes out.
    fn circle(&self) -> Option<Finding> {
        let mut left: BTreeSet<&Arrow> = self.found.keys().collect();
        loop {
            let onwards: BTreeSet<&str> = left.iter().map(|(from, _)| from.as_str()).collect();
            let before = left.len();
            left.retain(|(_, to)| onwards.contains(to.as_str()));
            if left.len() == before {
                break;
            }
        }
        let (path, line) = self.found.get(*left.first()?)?;
        let arrows: Vec<String> = left.iter().map(|(from, to)| format!("{from} --> {to}")).collect();
        Some(at(path, *line, format!("modules import each other in a circle, along {}", arrows.join(", "))))
    }
}

/// The id of a box, without its label in brackets.
fn id(name: &str) -> &str {
    name.split('[').next().unwrap_or(name)
}

/// The box of a module, if it has one.
fn node(krate: &str, module: &str) -> Option<String> {
    match (krate, module) {
        ("spectrum-user" | "spectrum-steering", "model" | "lib") | ("spectrum-proxy", "model") => None,
        ("spectrum-proxy", _) => Some("proxy".to_owned()),
        ("spectrum-user", "plan") => Some("user_plan".to_owned()),
        ("spectrum-user" | "spectrum-steering", module) => Some(module.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT_TEXT: &str = "text\n```mermaid\nflowchart TD\n  a[the a] --> b & c\n```\nx --> y\n";

    fn messages(sources: &[(&str, &str)]) -> Vec<String> {
        let mut picture = Picture::default();
        picture.read_document(DOCUMENT_TEXT);
        for (path, text) in sources {
            picture.read_source(path, text);
        }
        picture.findings().into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn what_is_drawn_and_imported_is_fine() {
        let text =
            "use crate::b::B;\nuse crate::{model::M, c};\n#[cfg(test)]\nmod tests {\nuse crate::d;\n}\n";
        assert_eq!(messages(&[("spectrum-user/src/a/mod.rs", text)]), [""; 0]);
    }

    #[test]
    fn a_circle_is_found_and_what_leads_to_it_named_with_it() {
        let sources = [
            ("spectrum-user/src/a.rs", "use crate::{b, c};\n"),
            ("spectrum-user/src/b.rs", "use crate::d;\n"),
            ("spectrum-user/src/d.rs", "use crate::b;\n"),
        ];
        let found = messages(&sources);
        let said = "modules import each other in a circle, along a --> b, b --> d, d --> b";
        assert_eq!(found.last().map(String::as_str), Some(said), "{found:?}");
    }

    #[test]
    fn an_arrow_too_few_and_one_too_many_are_found() {
        let found =
            messages(&[("spectrum-user/src/a.rs", "use crate::b::B;\nuse spectrum_proxy::Workers;\n")]);
        assert_eq!(
            found,
            [
                "the picture of ARCHITECTURE.md has no arrow a --> proxy",
                "the picture has an arrow a --> c, and nothing imports so"
            ]
        );
    }
}
