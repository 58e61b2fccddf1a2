//! One element of a service's `bindings`: every protocol × every prefix × every range of ports of it is a binding.

use std::num::NonZeroU16;

use toml::de::DeValue;

use super::section::Typed;
use crate::config::Protocols;
use crate::model::{Binding, ParsePortRangeError, PortRange, Prefix, Protocol, parse_port_ranges};

/// The place of a binding in the file: one for each of a million bindings, so it is small.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindingPlace {
    /// The byte at which its prefix stands.
    pub(super) offset: usize,
    /// The number of the element of `bindings`.
    pub(super) element: usize,
    /// The number of the element of `prefix`, if that is a list.
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
    pub(super) fn read(&mut self, element: Typed<'_, '_>, index: usize) {
        let Some(section) = element.section("a table such as { prefix = \"192.0.2.0/24\" }") else { return };
        let before = section.problems().count();
        let protocols: Protocols =
            section.take("protocol").and_then(|typed| typed.word()).unwrap_or_default();
        let prefix = section.take("prefix");
        let ports = section.take("ports").map_or_else(|| vec![PortRange::ALL], ports);
        let misspelt = section.misspells("prefix");
        section.finish();
        let Some(prefix) = prefix else {
            if !misspelt {
                let cure = "missing; add the addresses, for instance prefix = \"192.0.2.0/24\"";
                section.refuse_missing(element.offset(), "prefix", cure);
            }
            return;
        };
        // A binding that was meant otherwise would tie with bindings that it was never meant to meet.
        let understood = section.problems().count() == before;
        for (typed, prefix_index) in prefix.each("name at least one prefix") {
            if let Some(prefix) = typed.parsed::<Prefix>("a prefix such as \"192.0.2.0/24\"")
                && understood
            {
                let place = BindingPlace { offset: typed.offset(), element: index, prefix: prefix_index };
                self.add(protocols.each(), prefix, &ports, place);
            }
        }
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
fn ports(typed: Typed<'_, '_>) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for (typed, _) in typed.each("leave ports out to bind all of them") {
        match piece(typed) {
            None => {}
            Some(Err(error)) => typed.refuse(error),
            Some(Ok(pieces)) => pieces.into_iter().for_each(|range| add_range(&mut ranges, range, typed)),
        }
    }
    ranges
}

/// The ranges that one value of `ports` stands for; `None` if it is of the wrong type.
fn piece(typed: Typed<'_, '_>) -> Option<Result<Vec<PortRange>, ParsePortRangeError>> {
    if let DeValue::Integer(number) = typed.value() {
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
    typed.string("a port or a text such as \"80,8000-8100\"").map(parse_port_ranges)
}

/// Ranges of one value belong to the same prefixes, so they must not tie.
fn add_range(ranges: &mut Vec<PortRange>, range: PortRange, typed: Typed<'_, '_>) {
    let nests = |other: &PortRange| range.encloses(other) || other.encloses(&range);
    match ranges.iter().find(|other| range == **other || (range.overlaps(other) && !nests(other))) {
        None => ranges.push(range),
        Some(other) if *other == range => {
            typed.refuse(format_args!("{range} is given twice; remove one"));
        }
        Some(other) => typed.refuse(format_args!(
            "{other} and {range} overlap; write each port once, or one range within the other"
        )),
    }
}
