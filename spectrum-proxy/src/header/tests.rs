//! Headers by example and by property. Whom they are believed from is tested where connections are.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn proxied(client: &str, dialled: &str) -> Header {
    Header::Proxied { client: address(client), dialled: address(dialled) }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The addresses of a client 192.0.2.1:4096 that dialled 198.51.100.2:443.
const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x10, 0, 1, 0xbb];

fn with(addresses: &[u8], extensions: &[u8]) -> Vec<u8> {
    [addresses, extensions].concat()
}

#[test]
fn lines_are_what_the_format_shows() {
    for (line, header) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 65535 0\r\n", proxied("192.0.2.1:65535", "198.51.100.2:0")),
        ("PROXY TCP6 2001:db8::1 ::1 1 443\r\n", proxied("[2001:db8::1]:1", "[::1]:443")),
        ("PROXY UNKNOWN\r\n", Header::Local),
    ] {
        assert_eq!(Header::parse(line.as_bytes()), Parsed::Complete(header, line.len()), "{line}");
        assert_eq!(header.bytes(ProxyVersion::V1), line.as_bytes(), "{line}");
    }
}

#[test]
fn what_an_unknown_connection_says_besides_is_ignored() {
    let longest = format!("PROXY UNKNOWN{}\r\n", " ffff".repeat(18) + "  ");
    assert_eq!(longest.len(), 107);
    for line in ["PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "PROXY UNKNOWN  \r\n", &longest] {
        assert_eq!(Header::parse(line.as_bytes()), Parsed::Complete(Header::Local, line.len()), "{line}");
    }
}

#[test]
fn addresses_of_ipv4_within_ipv6_are_those_of_ipv4() {
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5000 443\r\n";
    let header = proxied("192.0.2.1:5000", "[2001:db8::2]:443");
    assert_eq!(Header::parse(line), Parsed::Complete(header, line.len()));
    assert_eq!(header.bytes(ProxyVersion::V1), line);
    let bytes = header.bytes(ProxyVersion::V2);
    assert_eq!(Header::parse(&bytes), Parsed::Complete(header, bytes.len()));
}

#[test]
fn a_line_may_name_a_client_of_one_family_that_dialled_the_other_as_nginx_writes_it() {
    for (line, header, passed_on) in [
        (
            "PROXY TCP6 2001:db8::1 192.0.2.1 51512 22\r\n",
            proxied("[2001:db8::1]:51512", "192.0.2.1:22"),
            "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 51512 22\r\n",
        ),
        (
            "PROXY TCP4 192.0.2.1 2001:db8::1 51512 22\r\n",
            proxied("192.0.2.1:51512", "[2001:db8::1]:22"),
            "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 51512 22\r\n",
        ),
    ] {
        assert_eq!(Header::parse(line.as_bytes()), Parsed::Complete(header, line.len()), "{line}");
        assert_eq!(header.bytes(ProxyVersion::V1), passed_on.as_bytes());
        let bytes = header.bytes(ProxyVersion::V2);
        assert_eq!((bytes[13], bytes.len()), (0x21, 52), "of one family");
    }
}

#[test]
fn a_line_that_is_not_exactly_one_is_malformed() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2  2\r\n",
        "PROXY TCP4 192.0.02.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n",
        "PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r \n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n\r\n",
        "PROXY UNKNOWNX\r\n",
    ] {
        assert_eq!(Header::parse(line.as_bytes()), Parsed::Malformed, "{line:?}");
    }
    let endless = "PROXY UNKNOWN ".to_owned() + &"x".repeat(200);
    assert_eq!(Header::parse(endless.as_bytes()), Parsed::Malformed);
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!((too_long.len(), Header::parse(too_long.as_bytes())), (108, Parsed::Malformed));
}

#[test]
fn bytes_are_what_the_format_shows() {
    let ipv4 = proxied("192.0.2.1:4096", "198.51.100.2:443");
    let ipv6 = proxied("[2001:db8::1]:1", "[2001:db8::2]:443");
    let mut addresses = vec![0; 36];
    addresses[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    addresses[15] = 1;
    addresses[16..20].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    addresses[31] = 2;
    addresses[32..].copy_from_slice(&[0, 1, 1, 0xbb]);
    for (bytes, header) in
        [(v2(0x21, 0x11, &IPV4), ipv4), (v2(0x21, 0x21, &addresses), ipv6), (v2(0x20, 0, &[]), Header::Local)]
    {
        assert_eq!(Header::parse(&bytes), Parsed::Complete(header, bytes.len()));
        assert_eq!(header.bytes(ProxyVersion::V2), bytes);
    }
}

#[test]
fn extensions_must_fill_their_place() {
    // An authority, and padding without a byte of it.
    let extensions = b"\x02\0\x0bexample.com\x04\0\0";
    let bytes = v2(0x21, 0x11, &with(&IPV4, extensions));
    let header = proxied("192.0.2.1:4096", "198.51.100.2:443");
    assert_eq!(Header::parse(&bytes), Parsed::Complete(header, bytes.len()));
    for extensions in [&b"\x02"[..], b"\x02\0", b"\x02\0\x01", b"\x02\0\x02x"] {
        assert_eq!(Header::parse(&v2(0x21, 0x11, &with(&IPV4, extensions))), Parsed::Malformed);
    }
}

/// The header of [`IPV4`] with `extensions`.
fn extended(extensions: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &with(&IPV4, extensions))
}

#[test]
fn what_is_said_of_the_client_is_passed_on_and_what_is_said_of_the_header_is_not() {
    // ALPN, authority, unique id, TLS, AWS's and Azure's endpoints, one that nobody has defined.
    let kept: Vec<u8> = [0x01, 0x02, 0x05, 0x20, 0xea, 0xee, 0x55]
        .into_iter()
        .flat_map(|kind| [kind, 0, 3, b'x', kind, b'y'])
        .collect();
    // Padding, a namespace, what is reserved.
    let left_out = b"\x04\0\x01x\x30\0\x04blue\xf8\0\0\xff\0\x01z";
    let mut bytes = extended(&[left_out.as_slice(), &kept, left_out, b"\x03\0\x04\0\0\0\0"].concat());
    let place = bytes.len() - 4;
    let sum = checksum::crc32c([bytes.as_slice()]);
    bytes[place..].copy_from_slice(&sum.to_be_bytes());
    let Parsed::Complete(header, length) = Header::parse(&bytes) else { panic!("malformed") };
    let extensions = Header::extensions(&bytes[..length]);
    assert_eq!(header.bytes_with(ProxyVersion::V2, &extensions), extended(&kept));
    assert_eq!(header.bytes_with(ProxyVersion::V1, &extensions), header.bytes(ProxyVersion::V1));
}

#[test]
fn a_proxys_own_connection_and_a_line_say_nothing_to_pass_on() {
    let authority = b"\x02\0\x0bexample.com";
    for bytes in [
        v2(0x20, 0x11, &with(&IPV4, authority)),
        v2(0x20, 0x00, authority),
        v2(0x21, 0x11, &IPV4),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ] {
        assert!(matches!(Header::parse(&bytes), Parsed::Complete(_, length) if length == bytes.len()));
        assert!(Header::extensions(&bytes).is_empty(), "{bytes:?}");
    }
    // A client whose address says nothing may have said what it wants all the same.
    for bytes in [v2(0x21, 0x00, authority), v2(0x21, 0x31, &[&[0; 216][..], authority].concat())] {
        assert!(!Header::extensions(&bytes).is_empty(), "{bytes:?}");
    }
    let extensions = Header::extensions(&v2(0x21, 0x00, authority));
    assert_eq!(
        Header::Local.bytes_with(ProxyVersion::V2, &extensions),
        Header::Local.bytes(ProxyVersion::V2)
    );
}

#[test]
fn extensions_beyond_the_longest_header_are_left_out_from_the_end() {
    let large = [&[0xea, 0x0f, 0xc0][..], &[7; 0x0fc0]].concat();
    let bytes = extended(&[&large[..], b"\x02\0\x1ea-name-of-30-bytes.example.com"].concat());
    assert_eq!(bytes.len(), MAX_LENGTH);
    let extensions = Header::extensions(&bytes);
    let same = proxied("192.0.2.1:4096", "198.51.100.2:443");
    assert_eq!(same.bytes_with(ProxyVersion::V2, &extensions), bytes);
    // Addresses of IPv6 take 24 bytes more.
    let longer = proxied("[2001:db8::1]:1", "198.51.100.2:443");
    let passed = longer.bytes_with(ProxyVersion::V2, &extensions);
    assert_eq!(
        (passed.len(), Header::parse(&passed)),
        (52 + large.len(), Parsed::Complete(longer, passed.len()))
    );
    assert!(passed.ends_with(&large));
}

#[test]
fn a_checksum_that_is_there_must_be_right() {
    let mut bytes = v2(0x21, 0x11, &with(&IPV4, b"\x04\0\x02xx\x03\0\x04\0\0\0\0\x04\0\x01y"));
    let place = bytes.len() - 8;
    let sum = checksum::crc32c([bytes.as_slice()]);
    bytes[place..place + 4].copy_from_slice(&sum.to_be_bytes());
    let header = proxied("192.0.2.1:4096", "198.51.100.2:443");
    assert_eq!(Header::parse(&bytes), Parsed::Complete(header, bytes.len()));
    for index in 16..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        // Where the type of the extension is damaged, nothing says that there is a checksum.
        if damaged[place - 3] == 0x03 {
            assert_eq!(Header::parse(&damaged), Parsed::Malformed, "byte {index}");
        }
    }
    assert_eq!(Header::parse(&v2(0x21, 0x11, &with(&IPV4, b"\x03\0\x02xx"))), Parsed::Malformed);
}

#[test]
fn connections_of_nobody_and_of_other_transports_are_the_proxys_own() {
    for bytes in [
        v2(0x20, 0x11, &IPV4),
        v2(0x20, 0x21, b"too short for addresses"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, b"\x04\0\x01x"),
        v2(0x21, 0x12, &IPV4),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        assert_eq!(Header::parse(&bytes), Parsed::Complete(Header::Local, bytes.len()));
    }
}

#[test]
fn bytes_that_no_header_has_are_malformed_as_soon_as_they_come() {
    for (bytes, seen) in [
        (v2(0x11, 0x11, &IPV4), 13),
        (v2(0x22, 0x11, &IPV4), 13),
        (v2(0x21, 0x41, &IPV4), 14),
        (v2(0x21, 0x13, &IPV4), 14),
        (v2(0x21, 0x11, &[0; 5000]), 16),
        (v2(0x21, 0x11, &IPV4[..11]), 27),
        (v2(0x21, 0x21, &IPV4), 28),
        (v2(0x21, 0x31, &IPV4), 28),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), 12),
    ] {
        assert_eq!(Header::parse(&bytes[..seen]), Parsed::Malformed, "{seen} of {bytes:?}");
        assert_eq!(Header::parse(&bytes[..seen - 1]), Parsed::Incomplete, "{} of {bytes:?}", seen - 1);
    }
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>().prop_map(|address| canonical(SocketAddr::new(address.ip(), address.port())))
}

fn any_version() -> impl Strategy<Value = ProxyVersion> {
    prop_oneof![Just(ProxyVersion::V1), Just(ProxyVersion::V2)]
}

/// Streams that begin with a header, and streams that begin with something like one.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let header = (any_address(), any_address(), any_version())
        .prop_map(|(client, dialled, version)| Header::Proxied { client, dialled }.bytes(version));
    let damaged = (any::<prop::sample::Index>(), any::<Option<u8>>());
    (header, vec(any::<u8>(), 0..50), proptest::option::of(damaged)).prop_map(|(header, rest, damaged)| {
        let mut stream = [header, rest].concat();
        if let Some((place, byte)) = damaged {
            let place = place.index(stream.len());
            match byte {
                Some(byte) => stream[place] = byte,
                None => stream.truncate(place),
            }
        }
        stream
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(client in any_address(), dialled in any_address(), version in any_version(), rest in vec(any::<u8>(), 0..50)) {
        let header = Header::Proxied { client, dialled };
        let bytes = header.bytes(version);
        prop_assert_eq!(Header::parse(&[bytes.clone(), rest].concat()), Parsed::Complete(header, bytes.len()));
    }

    #[test]
    fn however_a_stream_is_split_the_answer_is_the_same(stream in any_stream()) {
        let whole = Header::parse(&stream);
        // Every split of a stream is a sequence of its prefixes; so it is all of them that matter.
        let mut answered = false;
        for length in 0..=stream.len() {
            match Header::parse(&stream[..length]) {
                Parsed::Incomplete => prop_assert!(!answered, "incomplete again after {length} bytes"),
                answer => {
                    answered = true;
                    prop_assert_eq!(answer, whole, "after {} bytes", length);
                }
            }
        }
    }
}

#[test]
fn a_header_of_a_datagram_is_that_of_a_connection_but_for_the_transport() {
    let ipv4 = proxied("192.0.2.1:4096", "198.51.100.2:443");
    assert_eq!(ipv4.datagram_bytes(), v2(0x21, 0x12, &IPV4));
    let ipv6 = proxied("[2001:db8::1]:1", "[2001:db8::2]:2");
    assert_eq!(ipv6.datagram_bytes()[13], 0x22);
    for header in [ipv4, ipv6, proxied("192.0.2.1:4096", "[2001:db8::2]:2"), Header::Local] {
        let mut bytes = header.datagram_bytes();
        let length = bytes.len();
        assert_eq!(Header::parse_datagram(&bytes), Some((header, length)));
        for cut in 0..length {
            assert_eq!(Header::parse_datagram(&bytes[..cut]), None, "{cut} of {length}");
        }
        bytes.extend(b"what the client said");
        assert_eq!(Header::parse_datagram(&bytes), Some((header, length)));
    }
}

#[test]
fn by_datagram_a_client_of_either_transport_is_named_and_by_connection_only_its_own() {
    let header = proxied("192.0.2.1:4096", "198.51.100.2:443");
    let (connection, datagram) = (header.bytes(ProxyVersion::V2), header.datagram_bytes());
    assert_eq!(Header::parse(&datagram), Parsed::Complete(Header::Local, datagram.len()));
    assert_eq!(Header::parse_datagram(&connection), Some((header, connection.len())));
    assert_eq!(Header::parse_datagram(&header.bytes(ProxyVersion::V1)), None, "lines are for streams");
}
