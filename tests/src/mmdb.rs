//! Writes databases of networks in MaxMind's format, small ones, as its specification (2.0) says. Reads none.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A database to be written.
#[derive(Clone, Debug)]
pub struct Mmdb {
    kind: String,
    /// Bits of a record of the tree: 24, 28 or 32.
    record_size: u16,
    ip_version: u16,
    nodes: Vec<[Branch; 2]>,
    data: Vec<u8>,
    offsets: BTreeMap<Vec<u8>, usize>,
}

/// The way on from a node of the tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Branch {
    Nothing,
    Node(usize),
    /// An offset in the data.
    Data(usize),
}

/// A value of a record.
#[derive(Clone, Debug)]
pub enum Field {
    /// A number.
    Number(u32),
    /// A table.
    Table(Vec<(&'static str, Self)>),
    /// A text.
    Text(String),
}

impl Field {
    /// A record of a country, as MaxMind has it.
    #[must_use]
    pub fn country(code: &str) -> Self {
        let names = Self::Table(vec![("en", Self::Text(format!("a country called {code}")))]);
        let country = vec![
            ("geoname_id", Self::Number(7)),
            ("iso_code", Self::Text(code.to_owned())),
            ("names", names),
        ];
        Self::Table(vec![
            ("continent", Self::Table(vec![("code", Self::Text("AS".to_owned()))])),
            ("country", Self::Table(country)),
        ])
    }

    /// A record of an autonomous system, as MaxMind has it.
    #[must_use]
    pub fn system(number: u32) -> Self {
        let name = Self::Text("an example".to_owned());
        Self::Table(vec![
            ("autonomous_system_number", Self::Number(number)),
            ("autonomous_system_organization", name),
        ])
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
                head(6, bytes.len(), out);
                out.extend(bytes);
            }
            Self::Table(fields) => {
                head(7, fields.len(), out);
                for (key, value) in fields {
                    Self::Text((*key).to_owned()).write(out);
                    value.write(out);
                }
            }
            Self::Text(text) => {
                head(2, text.len(), out);
                out.extend(text.as_bytes());
            }
        }
    }
}

/// The control bytes before a value: its type, and its size.
fn head(kind: u8, size: usize, out: &mut Vec<u8>) {
    assert!(size < 29 + 256, "{size}");
    // Types beyond 7 stand in a byte of their own.
    let first = if kind > 7 { 0 } else { kind << 5 };
    let short = size.min(29);
    out.push(first | u8::try_from(short).unwrap_or(29));
    if kind > 7 {
        out.push(kind - 7);
    }
    if short == 29 {
        out.push(u8::try_from(size - 29).unwrap_or(u8::MAX));
    }
}

impl Mmdb {
    /// One of both families that says it is of this type, with records of so many bits, where IPv4 has its other names as well.
    #[must_use]
    pub fn new(kind: &str, record_size: u16) -> Self {
        let nodes = vec![[Branch::Nothing; 2]];
        let mut mmdb = Self {
            kind: kind.to_owned(),
            record_size,
            ip_version: 6,
            nodes,
            data: Vec::new(),
            offsets: BTreeMap::new(),
        };
        let ipv4 = mmdb.node_at(0, 96);
        for (alias, length) in [("::ffff:0:0", 96), ("2002::", 16), ("2001::", 32)] {
            let address: Ipv6Addr = alias.parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
            mmdb.put(u128::from(address), length, Branch::Node(ipv4));
        }
        mmdb
    }

    /// One of IPv4 alone.
    #[must_use]
    pub fn of_ipv4(kind: &str) -> Self {
        let (data, offsets) = (Vec::new(), BTreeMap::new());
        Self {
            kind: kind.to_owned(),
            record_size: 24,
            ip_version: 4,
            nodes: vec![[Branch::Nothing; 2]],
            data,
            offsets,
        }
    }

    /// Says `record` of a network, written as a prefix.
    #[must_use]
    pub fn with(mut self, network: &str, record: &Field) -> Self {
        let Some((address, length)) = network.split_once('/') else { panic!("{network} is no prefix") };
        let (address, length): (IpAddr, u8) = match (address.parse(), length.parse()) {
            (Ok(address), Ok(length)) => (address, length),
            _ => panic!("{network} is no prefix"),
        };
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let next = self.data.len();
        let offset = *self.offsets.entry(bytes.clone()).or_insert(next);
        if offset == next {
            self.data.extend(bytes);
        }
        let (bits, length) = match address {
            IpAddr::V4(v4) => self.place(v4, length),
            IpAddr::V6(v6) => (u128::from(v6), length),
        };
        self.put(bits, length, Branch::Data(offset));
        self
    }

    /// The place of an IPv4 network in the tree: below `::/96` where that is of both families.
    fn place(&self, address: Ipv4Addr, length: u8) -> (u128, u8) {
        let bits = u128::from(address.to_bits());
        if self.ip_version == 4 { (bits << 96, length) } else { (bits, length + 96) }
    }

    /// The node at the end of the first `length` bits of `address`.
    fn node_at(&mut self, address: u128, length: u8) -> usize {
        let mut at = 0;
        for depth in 0..length {
            let side = usize::from(address >> (127 - depth) & 1 == 1);
            at = match self.nodes[at][side] {
                Branch::Node(next) => next,
                other => {
                    self.nodes.push([other; 2]);
                    self.nodes[at][side] = Branch::Node(self.nodes.len() - 1);
                    self.nodes.len() - 1
                }
            };
        }
        at
    }

    fn put(&mut self, address: u128, length: u8, branch: Branch) {
        assert!(length > 0);
        let at = self.node_at(address, length - 1);
        self.nodes[at][usize::from(address >> (128 - length) & 1 == 1)] = branch;
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for node in &self.nodes {
            let [left, right] = node.map(|branch| {
                let record = match branch {
                    Branch::Nothing => self.nodes.len(),
                    Branch::Node(number) => number,
                    Branch::Data(offset) => self.nodes.len() + 16 + offset,
                };
                u32::try_from(record).unwrap_or(u32::MAX).to_be_bytes()
            });
            match self.record_size {
                24 => {
                    out.extend(&left[1..]);
                    out.extend(&right[1..]);
                }
                28 => {
                    out.extend(&left[1..]);
                    out.push(left[0] << 4 | right[0] & 0xf);
                    out.extend(&right[1..]);
                }
                _ => {
                    out.extend(left);
                    out.extend(right);
                }
            }
        }
        out.extend([0; 16]);
        out.extend(&self.data);
        out.extend(b"\xab\xcd\xefMaxMind.com");
        self.metadata(&mut out);
        out
    }

    fn metadata(&self, out: &mut Vec<u8>) {
        let text = |text: &str, out: &mut Vec<u8>| Field::Text(text.to_owned()).write(out);
        let short = |number: u16, out: &mut Vec<u8>| {
            head(5, 2, out);
            out.extend(number.to_be_bytes());
        };
        head(7, 9, out);
        for (key, number) in [
            ("binary_format_major_version", 2),
            ("binary_format_minor_version", 0),
            ("ip_version", self.ip_version),
            ("record_size", self.record_size),
        ] {
            text(key, out);
            short(number, out);
        }
        text("build_epoch", out);
        head(9, 8, out);
        // The first second of 2026.
        out.extend(1_767_225_600_u64.to_be_bytes());
        text("database_type", out);
        text(&self.kind, out);
        text("description", out);
        Field::Table(vec![("en", Field::Text("a test".to_owned()))]).write(out);
        text("languages", out);
        head(11, 1, out);
        text("en", out);
        text("node_count", out);
        Field::Number(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).write(out);
    }
}
