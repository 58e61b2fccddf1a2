//! Origins for UDP that are told who their client is: by a PROXY header of version 2 before every datagram, as dnsdist, Knot, the
//! recursor of PowerDNS and Unbound read it, and by the Simple Proxy Protocol. Which bytes are a header is tested beside the
//! codec.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::SocketAddr;

use spectrum_tests::case::Case;
use spectrum_tests::datagram::{assert_silence, client_from, hear};
use spectrum_tests::datagram_origin::DatagramOrigin;
use spectrum_tests::datagram_server::{KNOT, ask, at, client, knot, service, start};
use spectrum_tests::peer::{Peer, file};
use spectrum_tests::record::records;
use spectrum_tests::require::{Need, met};
use spectrum_tests::veth::client_of;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(dns_servers_know_who_asks);

on_one_path!(a_peer_that_speaks_spp_knows_who_asks);

const UNBOUND: u16 = 8053;
const RECURSOR: u16 = 8055;
const DNSDIST: u16 = 8056;

/// Has a query for the client's address answered with it, and logs who asks.
fn unbound(case: &Case) -> Peer<'_> {
    let address = case.loopback();
    let configuration = format!(
        "server:\n  interface: {address}@{UNBOUND}\n  proxy-protocol-port: {UNBOUND}\n  access-control: 0.0.0.0/0 allow\n  \
         access-control: ::/0 allow\n  do-daemonize: no\n  use-syslog: no\n  logfile: \"\"\n  log-queries: yes\n  chroot: \
         \"\"\n  username: \"\"\n  directory: \"/run\"\n  pidfile: \"\"\n  num-threads: 1\n  module-config: \
         \"iterator\"\n  local-zone: \"test.\" static\n  local-data: \"test. A 192.0.2.53\"\n  local-data: \"test. AAAA \
         2001:db8::53\"\nremote-control:\n  control-enable: no\n"
    );
    let path = file(&case.server, "unbound.conf", configuration);
    Peer::hearing(&case.server, &format!("unbound -d -c {}", path.display()), at(case, UNBOUND))
}

/// Answers with the address and port of who asks.
fn recursor(case: &Case) -> Peer<'_> {
    file(
        &case.server,
        "answer.lua",
        "function preresolve(dq)\n  dq:addAnswer(pdns.TXT, '\"'..dq.remoteaddr:toStringWithPort()..'\"')\n  return \
         true\nend\n",
    );
    case.server.run(|| fs::create_dir_all("/run/recursor")).unwrap();
    let address = at(case, RECURSOR);
    file(
        &case.server,
        "recursor/recursor.conf",
        format!(
            "local-address={address}\nproxy-protocol-from={}\nallow-from=0.0.0.0/0,::/0\nlua-dns-script=/run/answer.lua\n\
             socket-dir=/run/recursor\nthreads=1\ndaemon=no\nwrite-pid=no\nsetuid=\nsetgid=\n",
            address.ip()
        ),
    );
    Peer::hearing(&case.server, "pdns_recursor --config-dir=/run/recursor", address)
}

/// Answers with the address of who asks, and logs its port and what it dialled.
fn dnsdist(case: &Case) -> Peer<'_> {
    let address = at(case, DNSDIST);
    let configuration = format!(
        "setLocal(\"{address}\", {{reusePort=false}})\nsetACL({{\"0.0.0.0/0\", \"::/0\"}})\nsetProxyProtocolACL({{\"{}\"}})\n\
         setSecurityPollSuffix(\"\")\naddAction(AllRule(), LuaAction(function(dq) infolog(\"saw \
         \"..dq.remoteaddr:toStringWithPort()..\" \"..dq.localaddr:toStringWithPort()); return DNSAction.Spoof, \
         dq.remoteaddr:toString() end))\nnewServer(\"127.0.0.1:1\")\n",
        address.ip()
    );
    let path = file(&case.server, "dnsdist.conf", configuration);
    let line = format!("dnsdist -C {} --supervised --disable-syslog", path.display());
    Peer::hearing(&case.server, &line, address)
}

fn dns_servers_know_who_asks(case: &mut Case) {
    let needs = [Need::Dnsdist, Need::Kdig, Need::Knot, Need::Recursor, Need::Unbound];
    if !met("dns_servers_know_who_asks", &needs) {
        return;
    }
    let dialled = case.any_address();
    let netns = client_of(&case.server);
    let (unbound, _knot) = (unbound(case), knot(case));
    let (_recursor, dnsdist) = (recursor(case), dnsdist(case));
    let more = "proxy-header = \"v2\"\nudp = { responses = 1 }";
    let configuration: String = [UNBOUND, KNOT, RECURSOR, DNSDIST]
        .map(|port| service(case, &(port - 8000).to_string(), "udp", at(case, port), more))
        .concat();
    let instance = start(case, &configuration);
    let from = client(case);
    let kind = case.family.pick("A", "AAAA");
    let ask = |port: u16, kind| ask(&netns, from, SocketAddr::new(dialled, port - 8000), kind);
    // More than once: every datagram has a header of its own, and a session ends with its answer.
    for _ in 0..3 {
        assert_eq!(ask(UNBOUND, kind), case.family.pick("192.0.2.53", "2001:db8::53"));
        assert_eq!(ask(KNOT, kind), from.ip().to_string());
        assert_eq!(ask(RECURSOR, "TXT"), format!("\"{from}\""));
        assert_eq!(ask(DNSDIST, kind), from.ip().to_string());
    }
    unbound.await_said(&format!("info: {} test. {kind} IN", from.ip()));
    dnsdist.await_said(&format!("saw {from} {}", SocketAddr::new(dialled, DNSDIST - 8000)));
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), 12, "{finished}");
    assert!(records.iter().all(|record| record["status"] == "200"), "{finished}");
}

/// What a client at port 4242 that dials port 7000 of the seventh address is introduced by: the magic, its address, the one
/// that it dialled, and their ports.
const SPP_V4: &[u8] = b"\x56\xec\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x02\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x07\x10\x92\x1b\x58";
const SPP_V6: &[u8] = b"\x56\xec\x20\x01\x0d\xb8\xff\xff\0\0\0\0\0\0\0\0\0\x02\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x10\x92\x1b\x58";

/// Written here from the protocol's public description: no server of a distribution speaks it.
fn a_peer_that_speaks_spp_knows_who_asks(case: &mut Case) {
    let netns = client_of(&case.server);
    let golden = case.family.pick(SPP_V4, SPP_V6);
    let origin = DatagramOrigin::serve(&case.server, at(case, 7000), move |said, _| {
        let said = said.strip_prefix(golden)?;
        Some(match said {
            b"with" => [golden, b"what is with it"].concat(),
            b"empty" => golden.to_vec(),
            _ => b"without".to_vec(),
        })
    });
    let _instance = start(case, &service(case, "7000", "udp", origin.address(), "proxy-header = \"spp\""));
    let client = client_from(&netns, client(case), SocketAddr::new(case.address(7), 7000));
    let say = |said: &[u8]| client.send(said).unwrap();
    for _ in 0..3 {
        say(b"with");
        assert_eq!(hear(&client).unwrap(), b"what is with it");
        say(b"empty");
        assert_eq!(hear(&client).unwrap(), b"");
    }
    // An answer that does not say for whom it is reaches nobody.
    say(b"without");
    assert_silence(&client);
    say(b"with");
    assert_eq!(hear(&client).unwrap(), b"what is with it");
}
