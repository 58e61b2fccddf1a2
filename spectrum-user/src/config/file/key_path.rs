//! The name of a value in the file, as messages print it: `service "games" bindings[0].ports`.

use std::fmt;

/// The path of a value in a file. Parts borrow what they are part of: a file of a million bindings builds a million of
/// these, and prints none when all is well.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyPath<'a> {
    /// The file itself.
    File,
    /// An element of a list, the first is 0.
    Index(&'a KeyPath<'a>, usize),
    /// A key of a table.
    Key(&'a KeyPath<'a>, &'a str),
    /// A service, by its name if it has one.
    Service {
        /// Which in the file, the first is 0.
        index: usize,
        /// As typed.
        name: Option<&'a str>,
    },
}

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Index(list, index) => write!(f, "{list}[{index}]"),
            Self::Key(Self::File, key) => f.write_str(key),
            Self::Key(service @ Self::Service { .. }, key) => write!(f, "{service} {key}"),
            Self::Key(table, key) => write!(f, "{table}.{key}"),
            Self::Service { name: Some(name), .. } => write!(f, "service {name:?}"),
            Self::Service { index, name: None } => write!(f, "service[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_one_would_say_them() {
        let service = KeyPath::Service { index: 3, name: Some("games") };
        let bindings = KeyPath::Key(&service, "bindings");
        let binding = KeyPath::Index(&bindings, 0);
        assert_eq!(KeyPath::Key(&binding, "ports").to_string(), "service \"games\" bindings[0].ports");
        let nameless = KeyPath::Service { index: 3, name: None };
        assert_eq!(KeyPath::Key(&nameless, "name").to_string(), "service[3] name");
        let dispatcher = KeyPath::Key(&KeyPath::File, "dispatcher");
        assert_eq!(KeyPath::Key(&dispatcher, "mode").to_string(), "dispatcher.mode");
    }
}
