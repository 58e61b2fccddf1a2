//! Whom a connection is for: headers of trusted proxies, and headers for origins. Which bytes are a header is tested
//! beside the parser.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics rather than return an error")]

mod served;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use served::{Running, accept, assert_reset, origin, pass, read_to_end};
use spectrum_proxy::header::Header;
use spectrum_proxy::model::{Origins, Policy, ProxyVersion, Responder, Target, TrustedProxies, UniqueIds};
use spectrum_proxy::{End, HeaderFault, Side};

const CLIENT: &str = "203.0.113.7:4711";
const DIALLED: &str = "198.51.100.9:443";
const HELLO: &str =
    "hello world\nservice=default protocol=tcp dialled=198.51.100.9:443 client=203.0.113.7:4711\n";

fn trusting(prefix: &str) -> Policy {
    let prefixes = vec![prefix.parse().unwrap()];
    Policy { trusted_proxies: TrustedProxies { prefixes }, ..Policy::default() }
}

fn header(version: ProxyVersion) -> Vec<u8> {
    let [client, dialled] = [CLIENT, DIALLED].map(|address| address.parse::<SocketAddr>().unwrap());
    Header::Proxied { client, dialled }.bytes(version)
}

/// A service whose origins are told who the client is, and its one origin.
fn telling(version: ProxyVersion, policy: Policy) -> (Running, TcpListener) {
    let (listener, address) = origin();
    let mut origins = Origins::from(vec![address.parse().unwrap()]);
    origins.header = Some(version);
    (Running::serve_under(policy, Target::Origins(origins)), listener)
}

/// The words to the origin, which are all that comes before anybody spoke.
fn told(origin: &mut TcpStream, client: SocketAddr, dialled: SocketAddr, version: ProxyVersion) {
    let expected = Header::Proxied { client, dialled }.bytes(version);
    let mut bytes = vec![0; expected.len()];
    origin.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn a_header_says_who_the_client_is_however_it_arrives() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Hello));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = header(version);
        for pieces in [1, 2, 7, header.len()] {
            let mut proxy = running.dial();
            proxy.set_nodelay(true).unwrap();
            for piece in header.chunks(header.len().div_ceil(pieces)) {
                proxy.write_all(piece).unwrap();
            }
            proxy.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut proxy).unwrap(), HELLO, "{version} in {pieces}");
            let report = running.report();
            assert_eq!(report.end, End::Closed);
            assert_eq!(
                (report.client.to_string(), report.dialled.to_string()),
                (CLIENT.into(), DIALLED.into())
            );
            assert_eq!(report.via, Some(proxy.local_addr().unwrap()));
            assert_eq!(report.bytes_from_client, 0, "the header is not the client's");
        }
    }
}

#[test]
fn what_follows_a_header_is_the_clients() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Echo));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let said = "x".repeat(100_000);
        let mut proxy = running.dial();
        let mut writer = proxy.try_clone().unwrap();
        let stream = [header(version), said.clone().into_bytes()].concat();
        let writing = std::thread::spawn(move || {
            writer.write_all(&stream).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(read_to_end(&mut proxy).unwrap(), said);
        writing.join().unwrap();
        assert_eq!(running.report().bytes_from_client, 100_000);
    }
}

#[test]
fn a_proxys_own_connection_has_its_own_addresses() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Discard));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut proxy = running.dial();
        proxy.write_all(&Header::Local.bytes(version)).unwrap();
        let address = proxy.local_addr().unwrap();
        drop(proxy);
        let report = running.report();
        assert_eq!((report.client, report.via, report.dialled), (address, None, running.address));
        assert_eq!(report.end, End::Closed);
    }
}

#[test]
fn others_bytes_are_not_looked_at() {
    let running = Running::serve_under(trusting("198.51.100.0/24"), Target::Respond(Responder::Echo));
    let mut client = running.dial();
    let mut copy = client.try_clone().unwrap();
    pass("PROXY TCP4 203.0.113.7 198.51.100.9 4711 443\r\n", &mut client, &mut copy);
    let address = client.local_addr().unwrap();
    drop((client, copy));
    assert_eq!(running.report().client, address);
}

#[test]
fn a_connection_that_begins_otherwise_is_reset() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Hello));
    let mut talker = running.dial();
    talker.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_reset(read_to_end(&mut talker));
    assert_eq!(running.report().end, End::Headless(HeaderFault::Malformed));

    let mut quitter = running.dial();
    quitter.write_all(b"PROXY TCP4").unwrap();
    quitter.shutdown(Shutdown::Write).unwrap();
    assert_reset(read_to_end(&mut quitter));
    assert_eq!(running.report().end, End::Headless(HeaderFault::Missing));

    let resetter = running.dial();
    served::reset(resetter);
    assert_eq!(running.report().end, End::Reset(Side::Downstream));
}

#[test]
fn a_proxy_that_says_nothing_is_not_waited_for() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Hello));
    let mut silent = running.dial();
    let mut slow = running.dial();
    slow.write_all(b"PROXY ").unwrap();
    assert_reset(read_to_end(&mut silent));
    assert_reset(read_to_end(&mut slow));
    for _ in 0..2 {
        assert_eq!(running.report().end, End::Headless(HeaderFault::Missing));
    }
}

#[test]
fn an_origin_is_told_who_the_client_is_before_anybody_speaks() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let (running, listener) = telling(version, Policy::default());
        let mut client = running.dial();
        let mut origin = accept(&listener);
        told(&mut origin, client.local_addr().unwrap(), running.address, version);
        origin.set_nonblocking(true).unwrap();
        assert_eq!(origin.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        origin.set_nonblocking(false).unwrap();
        pass("the server speaks first", &mut origin, &mut client);
        pass("then the client", &mut client, &mut origin);
        drop((client, origin));
        assert_eq!(running.report().bytes_from_client, 15, "our header is not the client's");
    }
}

#[test]
fn an_origin_is_told_of_the_client_that_a_trusted_proxy_named() {
    let (running, listener) = telling(ProxyVersion::V2, trusting("127.0.0.0/8"));
    let mut proxy = running.dial();
    proxy.write_all(&header(ProxyVersion::V1)).unwrap();
    let mut origin = accept(&listener);
    told(&mut origin, CLIENT.parse().unwrap(), DIALLED.parse().unwrap(), ProxyVersion::V2);
    pass("and the rest", &mut proxy, &mut origin);
}

/// A header of version 2 of [`CLIENT`] that dialled [`DIALLED`], with `extensions`.
fn extended(extensions: &[u8]) -> Vec<u8> {
    let mut bytes = header(ProxyVersion::V2);
    bytes.extend(extensions);
    let length = u16::try_from(bytes.len() - 16).unwrap().to_be_bytes();
    bytes[14..16].copy_from_slice(&length);
    bytes
}

#[test]
fn an_origin_is_told_what_a_trusted_proxy_said_besides() {
    let said = b"\xea\0\x17\x01vpce-0123456789abcdef0\x02\0\x0bexample.org";
    let (running, listener) = telling(ProxyVersion::V2, trusting("127.0.0.0/8"));
    let mut proxy = running.dial();
    // In two pieces: what an origin is told does not depend on how it came.
    let came = extended(said);
    proxy.set_nodelay(true).unwrap();
    proxy.write_all(&came[..40]).unwrap();
    proxy.write_all(&came[40..]).unwrap();
    let mut origin = accept(&listener);
    let mut told = vec![0; came.len()];
    origin.read_exact(&mut told).unwrap();
    assert_eq!(told, came);
    pass("and the rest", &mut proxy, &mut origin);

    let (running, listener) = telling(ProxyVersion::V1, trusting("127.0.0.0/8"));
    let mut proxy = running.dial();
    proxy.write_all(&came).unwrap();
    let mut origin = accept(&listener);
    let mut told = vec![0; header(ProxyVersion::V1).len()];
    origin.read_exact(&mut told).unwrap();
    assert_eq!(told, header(ProxyVersion::V1), "a line has no room for it");
    pass("and the rest", &mut proxy, &mut origin);
}

#[test]
fn what_the_client_has_said_goes_in_one_segment_with_the_header() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let (running, listener) = telling(version, trusting("127.0.0.0/8"));
        for _ in 0..20 {
            let mut proxy = running.dial();
            let came = [header(version), b"hello".to_vec()].concat();
            proxy.write_all(&came).unwrap();
            let mut origin = accept(&listener);
            let mut seen = vec![0; 4096];
            let first = origin.read(&mut seen).unwrap();
            assert_eq!(&seen[..first], came, "{version}");
        }
    }
}

/// The next origin's header of version 2, without the signature: its length says how much that is.
fn told_extensions(listener: &TcpListener) -> Vec<u8> {
    let mut origin = accept(listener);
    let mut fixed = [0; 16];
    origin.read_exact(&mut fixed).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
    origin.read_exact(&mut rest).unwrap();
    rest.split_off(12)
}

#[test]
fn a_connection_has_one_name_in_the_record_and_for_the_origin() {
    let (listener, address) = origin();
    let mut origins = Origins::from(vec![address.parse().unwrap()]);
    (origins.header, origins.unique_ids) = (Some(ProxyVersion::V2), UniqueIds::Made);
    let running = Running::serve_under(trusting("127.0.0.1/32"), Target::Origins(origins));
    let authority = b"\x02\0\x0bexample.org";

    let mut ours = Vec::new();
    for said in [&b""[..], authority] {
        let mut proxy = running.dial();
        proxy.write_all(&extended(said)).unwrap();
        let told = told_extensions(&listener);
        assert_eq!((&told[..3], &told[35..]), (&b"\x05\0\x20"[..], said));
        drop(proxy);
        let id = running.report().unique_id.unwrap();
        assert_eq!(id.as_bytes(), &told[3..35]);
        ours.push(id);
    }
    assert_ne!(ours[0], ours[1]);

    let given = b"\x05\0\x07theirs!";
    let mut proxy = running.dial();
    proxy.write_all(&extended(given)).unwrap();
    assert_eq!(told_extensions(&listener), given);
    drop(proxy);
    assert_eq!(running.report().unique_id.as_deref(), Some("theirs!"));
}

#[test]
fn a_name_that_a_trusted_proxy_gave_is_in_the_record_whoever_answers() {
    let running = Running::serve_under(trusting("127.0.0.0/8"), Target::Respond(Responder::Discard));
    for (said, id) in [(&b"\x05\0\x03a b"[..], Some("0x612062")), (b"", None)] {
        let mut proxy = running.dial();
        proxy.write_all(&extended(said)).unwrap();
        drop(proxy);
        assert_eq!(running.report().unique_id.as_deref(), id);
    }
}
