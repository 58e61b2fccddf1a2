//! One element of a service's `bindings`: every protocol × every prefix × every range of ports of it is a binding.

use std::num::NonZeroU16;

use toml::de::DeValue;

use super::key_path::KeyPath;
use super::section::{Section, Typed, each, parsed, refuse, refuse_type, string, word};
use crate::config::Protocols;
use crate::config::error::Problems;
use crate::model::{Binding, ParsePortRangeError, PortRange, Prefix, Protocol, parse_port_ranges};

/// The place of a binding in the file: one for each of a million bindings, so it is small.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindingPlace {
    /// The byte at which its prefix stands.
    pub(super) offset: usize,
    /// Which element of `bindings`.
    pub(super) element: usize,
    /// Which element of `prefix`, if that is a list.
    pub(super) prefix: Option<usize>,
}

/// Bindings and, in the same order, where they were typed.
#[derive(Debug, Default)]
pub(super) struct DescribedBindings {
    pub(super) bindings: Vec<Binding>,
    pub(super) places: Vec<BindingPlace>,
}

impl DescribedBindings {
    /// Adds what the element `index` of a list of bindings says.
    pub(super) fn read(
        &mut self,
        value: &Typed<'_>,
        path: KeyPath<'_>,
        index: usize,
        problems: &mut Problems<'_>,
    ) {
        let DeValue::Table(table) = value.get_ref() else {
            refuse_type(value, path, "a table such as { prefix = \"192.0.2.0/24\" }", problems);
            return;
        };
        let before = problems.count();
        let mut section = Section::new(table, path);
        let protocols: Protocols = section
            .take("protocol")
            .and_then(|value| word(value, KeyPath::Key(&path, "protocol"), Protocols::WORDS, problems))
            .unwrap_or_default();
        let prefix = section.take("prefix");
        let ports = section.take("ports").map_or_else(
            || vec![PortRange::ALL],
            |value| ports(value, KeyPath::Key(&path, "ports"), problems),
        );
        let misspelt = section.misspells("prefix");
        section.finish(problems);
        let Some(prefix) = prefix else {
            let key = KeyPath::Key(&path, "prefix");
            if !misspelt {
                let cure = "missing; add the addresses, for instance prefix = \"192.0.2.0/24\"";
                problems.add_about(value.span().start, key, cure);
            }
            return;
        };
        let understood = problems.count() == before;
        each(
            prefix,
            KeyPath::Key(&path, "prefix"),
            "name at least one prefix",
            problems,
            |value, path, prefix_index, problems| {
                let Some(prefix) =
                    parsed::<Prefix>(value, path, "a prefix such as \"192.0.2.0/24\"", problems)
                else {
                    return;
                };
                // A binding that was meant otherwise would tie with bindings that it was never meant to meet.
                if !understood {
                    return;
                }
                let place = BindingPlace { offset: value.span().start, element: index, prefix: prefix_index };
                self.add(protocols.each(), prefix, &ports, place);
            },
        );
    }

    fn add(&mut self, protocols: &[Protocol], prefix: Prefix, ports: &[PortRange], place: BindingPlace) {
        for protocol in protocols {
            for ports in ports {
                self.bindings.push(Binding { protocol: *protocol, prefix, ports: *ports });
                self.places.push(place);
            }
        }
    }
}

/// The ranges of a number, of a text, or of a list of both.
fn ports(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    each(value, path, "leave ports out to bind all of them", problems, |value, path, _index, problems| {
        match piece(value, path, problems) {
            None => {}
            Some(Err(error)) => refuse(value, path, error, problems),
            Some(Ok(typed)) => {
                for range in typed {
                    add_range(&mut ranges, range, value, path, problems);
                }
            }
        }
    });
    ranges
}

/// The ranges that one value of `ports` stands for; `None` if it is of the wrong type.
fn piece(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems<'_>,
) -> Option<Result<Vec<PortRange>, ParsePortRangeError>> {
    if let DeValue::Integer(number) = value.get_ref() {
        // Not by reading it as a range, whose looks a negative number has.
        let port = u16::from_str_radix(number.as_str(), number.radix()).ok().and_then(NonZeroU16::new);
        let range = port.and_then(|port| PortRange::new(port, port));
        let refused = || {
            let parsed = number.to_string().parse::<PortRange>().err();
            let notation = parsed.filter(|error| matches!(error, ParsePortRangeError::Notation { .. }));
            notation.unwrap_or_else(|| ParsePortRangeError::Port { port: number.to_string() })
        };
        return Some(range.map(|range| vec![range]).ok_or_else(refused));
    }
    string(value, path, "a port or a text such as \"80,8000-8100\"", problems).map(parse_port_ranges)
}

/// Ranges of one value belong to the same prefixes, so they must not tie.
fn add_range(
    ranges: &mut Vec<PortRange>,
    range: PortRange,
    value: &Typed<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems<'_>,
) {
    let nests = |other: &PortRange| range.encloses(other) || other.encloses(&range);
    match ranges.iter().find(|other| range == **other || (range.overlaps(other) && !nests(other))) {
        None => ranges.push(range),
        Some(other) if *other == range => {
            refuse(value, path, format_args!("{range} is given twice; remove one"), problems);
        }
        Some(other) => refuse(
            value,
            path,
            format_args!("{other} and {range} overlap; write each port once, or one range within the other"),
            problems,
        ),
    }
}
