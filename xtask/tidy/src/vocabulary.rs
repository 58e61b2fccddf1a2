//! One word is one type: no two types of the product that another file can name are called the same. Types that only their own
//! file knows may be, and so may those of tests.

use std::collections::BTreeMap;

use super::{Finding, at, code};

/// The types of the product's crates that more than one file may name, each with where it is.
#[derive(Debug, Default)]
pub(super) struct Vocabulary(BTreeMap<String, Vec<(String, usize)>>);

impl Vocabulary {
    /// Reads the types of the file `path`.
    pub(super) fn read(&mut self, path: &str, text: &str) {
        let is_product =
            path.starts_with("spectrum-") && path.contains("/src/") && !path.ends_with("/tests.rs");
        if !is_product {
            return;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (line, code) in code::lines(product) {
            if let Some(name) = defined(&code) {
                self.0.entry(name.to_owned()).or_default().push((path.to_owned(), line));
            }
        }
    }

    /// Every type that has the name of an earlier one.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let again = self.0.iter().flat_map(|(name, places)| {
            let first = places.first().map_or("", |(path, _)| path);
            places.iter().skip(1).map(move |(path, line)| {
                at(
                    path,
                    *line,
                    format!("another type is called {name}, in {first}; docs/glossary.md has words"),
                )
            })
        });
        again.collect()
    }
}

/// The name of the type that `code` begins to define, if other files may name it.
fn defined(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(restricted) => restricted.split_once(')')?.1,
        None => rest,
    };
    let (keyword, name) = rest.trim_start().split_once(' ')?;
    let is_type = ["enum", "struct", "trait", "type", "union"].contains(&keyword);
    is_type.then(|| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sources: &[(&str, &str)]) -> Vec<String> {
        let mut vocabulary = Vocabulary::default();
        for (path, text) in sources {
            vocabulary.read(path, text);
        }
        vocabulary.findings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_second_type_of_a_name_is_found_in_whatever_crate() {
        let sources = [
            ("spectrum-a/src/a.rs", "pub struct Place;\n"),
            ("spectrum-b/src/b.rs", "\npub(super) enum Place {\n"),
        ];
        let said = "spectrum-b/src/b.rs:2: another type is called Place, in spectrum-a/src/a.rs; docs/glossary.md has words";
        assert_eq!(found(&sources), [said]);
    }

    #[test]
    fn private_types_and_those_of_tests_may_share_a_name() {
        let place = "pub struct Place<'a>(&'a str);\n";
        for other in [
            ("spectrum-b/src/b.rs", "struct Place;\n"),
            ("spectrum-b/src/b.rs", "#[cfg(test)]\nmod tests {\n    pub struct Place;\n}\n"),
            ("spectrum-b/src/b/tests.rs", place),
            ("spectrum-b/src/b.rs", "pub struct Places;\n"),
            ("xtask/src/b.rs", place),
        ] {
            assert_eq!(found(&[("spectrum-a/src/a.rs", place), other]), [""; 0], "{other:?}");
        }
    }
}
