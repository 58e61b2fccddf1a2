//! Datagrams that come from trusted proxies: from dnsdist, whose clients a service then serves, and from one service to the next by every
//! header that both know. What goes on within one worker is tested beside it.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::SocketAddr;

use spectrum_tests::case::Case;
use spectrum_tests::control::{await_logged, count_logged};
use spectrum_tests::datagram::{assert_silence_to, client_from, hear};
use spectrum_tests::datagram_origin::DatagramOrigin;
use spectrum_tests::datagram_server::{KNOT, ask, at, client, knot, service, start};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::naming::v2_of_datagram as v2;
use spectrum_tests::peer::{Peer, converse, file};
use spectrum_tests::record::records;
use spectrum_tests::require::{Need, met};
use spectrum_tests::veth::{client_of, server_address};
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(clients_are_known_behind_a_chain_of_services, clients_of_dnsdist_are_known);

on_one_path!(a_rule_keeps_out_who_forges_the_address_of_a_proxy);

/// The addresses from which this host dials its own.
fn own(case: &Case) -> String {
    format!("trusted-proxies = [\"{}\", \"{}\"]", case.loopback(), server_address(case.family))
}

fn clients_are_known_behind_a_chain_of_services(case: &mut Case) {
    let netns = client_of(&case.server);
    let dialled = SocketAddr::new(case.any_address(), 7000);
    let [middle, last] = [7001, 7002].map(|port| SocketAddr::new(case.address(7), port));
    let expected = [4242, 4243].map(|port| v2(SocketAddr::new(client(case).ip(), port), dialled));
    let known = expected.clone();
    let origin = DatagramOrigin::serve(&case.server, at(case, 7003), move |said, _| {
        let which = known.iter().position(|header| said.starts_with(header))?;
        Some([b"client ", which.to_string().as_bytes(), b" said ", &said[known[which].len()..]].concat())
    });
    let own = own(case);
    let configuration = [
        service(case, "7000", "udp", middle, "proxy-header = \"v2\""),
        service(case, "7001", "udp", last, &format!("proxy-header = \"spp\"\n{own}")),
        service(case, "7002", "udp", origin.address(), &format!("proxy-header = \"v2\"\n{own}")),
    ];
    let configuration = configuration.map(|service| service + "udp = { responses = 3 }\n");
    let instance = start(case, &configuration.concat());
    let clients =
        [4242, 4243].map(|port| client_from(&netns, SocketAddr::new(client(case).ip(), port), dialled));
    for said in ["hello", "", "and again"] {
        for (which, client) in clients.iter().enumerate() {
            client.send(said.as_bytes()).unwrap();
            assert_eq!(hear(client).unwrap(), format!("client {which} said {said}").as_bytes());
        }
    }
    // From the trusted host itself, but without a header.
    let stranger = client_from(&case.server, SocketAddr::new(case.loopback(), 0), middle);
    assert_silence_to(&stranger, b"hello");
    let finished = instance.stop();
    let records = records(&finished.stderr);
    for socket in &clients {
        let client = socket.local_addr().unwrap().to_string();
        let mut of = records.iter().filter(|record| record["client"] == client).collect::<Vec<_>>();
        of.sort_by_key(|record| record["service"]);
        let services: Vec<_> = of.iter().map(|record| record["service"]).collect();
        assert_eq!(services, ["to-7001", "to-7002", "to-7003"], "{finished}");
        assert_eq!(of[0]["via"], "-");
        for record in of {
            assert_eq!(record["dialled"], dialled.to_string(), "{finished}");
            assert_eq!((record["bytes_from_client"], record["bytes_to_client"]), ("14", "56"), "{finished}");
            assert_eq!(record["via"] == "-", record["service"] == "to-7001", "{finished}");
        }
    }
    let nobody: Vec<_> = records.iter().filter(|record| record["end"] == "header-malformed").collect();
    assert_eq!(nobody.len(), 1, "{finished}");
    assert_eq!(nobody[0]["client"], stranger.local_addr().unwrap().to_string());
}

/// The cure that the documents name, since nothing in a datagram tells a forged address.
fn a_rule_keeps_out_who_forges_the_address_of_a_proxy(case: &mut Case) {
    let (proxy, family) = case.family.pick(("10.77.0.5", "ip"), ("2001:db8:77::5", "ip6"));
    let netns = client_of(&case.server);
    netns.ip("link set lo up");
    netns.ip(&format!("addr add {proxy} dev lo"));
    // It would do the same for IPv4.
    for which in ["all", "to-client"] {
        case.server.sysctl(&format!("net/ipv4/conf/{which}/rp_filter"), "0");
    }
    let dialled = SocketAddr::new(case.any_address(), 7000);
    let prefix = case.prefix();
    let configuration = format!(
        "[[service]]\nname = \"games\"\nbindings = [{{ prefix = \"{prefix}\", protocol = \"udp\" }}]\nrespond = \
         \"discard\"\ntrusted-proxies = [\"{proxy}\"]\nudp = {{ idle = \"100ms\" }}\n"
    );
    let instance = start(case, &configuration);
    let forger = client_from(&netns, SocketAddr::new(proxy.parse().unwrap(), 0), dialled);
    let victims = [1, 2].map(|port| SocketAddr::new(case.family.parse("203.0.113.9", "2001:db8:9::9"), port));
    forger.send(&v2(victims[0], dialled)).unwrap();
    await_logged(&instance, &format!("client={} ", victims[0]), 1);
    case.server.command("nft add table inet filter");
    case.server
        .command("nft add chain inet filter prerouting { type filter hook prerouting priority raw ; }");
    case.server
        .command(&format!("nft add rule inet filter prerouting iifname != lan0 {family} saddr {proxy} drop"));
    forger.send(&v2(victims[1], dialled)).unwrap();
    // Whoever comes after it by the same way is served.
    let honest = client_from(&netns, client(case), dialled);
    honest.send(b"hello").unwrap();
    await_logged(&instance, &format!("client={} ", client(case)), 1);
    assert_eq!(count_logged(&instance, &format!("client={} ", victims[1])), 0);
}

const PORT: u16 = 5353;
const PORT_OF_HTTPS: u16 = 8443;

/// Passes questions by UDP and HTTPS on to `backend`, by datagrams that say who asks.
fn dnsdist(case: &Case, backend: SocketAddr) -> Peer<'_> {
    let [address, https] =
        [PORT, PORT_OF_HTTPS].map(|port| SocketAddr::new(server_address(case.family), port));
    let certificate = "/run/certificate.pem\", \"/run/key.pem";
    case.server.command(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=spectrum.test -keyout \
         /run/key.pem -out /run/certificate.pem",
    );
    let configuration = format!(
        "setLocal(\"{address}\", {{reusePort=false}})\naddDOHLocal(\"{https}\", \"{certificate}\", \"/dns-query\", \
         {{reusePort=false}})\nsetACL({{\"0.0.0.0/0\", \"::/0\"}})\nsetSecurityPollSuffix(\"\")\nsetVerboseHealthChecks(true)\n\
         newServer({{address=\"{backend}\", source=\"{}\", useProxyProtocol=true, checkInterval=1}})\n",
        case.loopback()
    );
    let path = file(&case.server, "dnsdist.conf", configuration);
    let line = format!("dnsdist -C {} --supervised --disable-syslog", path.display());
    Peer::hearing(&case.server, &line, address)
}

fn clients_of_dnsdist_are_known(case: &mut Case) {
    let needs = [Need::Dnsdist, Need::Kdig, Need::Knot, Need::Openssl];
    if !met("clients_of_dnsdist_are_known", &needs) {
        return;
    }
    let backend = SocketAddr::new(case.any_address(), 53);
    let netns = client_of(&case.server);
    let _knot = knot(case);
    let more = format!("proxy-header = \"v2\"\nudp = {{ responses = 1 }}\n{}", own(case));
    let instance = start(case, &service(case, "53", "udp", at(case, KNOT), &more));
    let _dnsdist = dnsdist(case, backend);
    // It asks whether anybody is there, for itself; who answers is the origin.
    let own = format!("client={}:", case.family.pick("127.0.0.1", "[::1]"));
    eventually("a health check of dnsdist", PATIENCE, || (count_logged(&instance, &own) > 0).then_some(()));
    let (from, kind) = (client(case), case.family.pick("A", "AAAA"));
    let [target, https] =
        [PORT, PORT_OF_HTTPS].map(|port| SocketAddr::new(server_address(case.family), port));
    for port in from.port()..from.port() + 3 {
        let from = SocketAddr::new(from.ip(), port);
        assert_eq!(ask(&netns, from, target, kind), from.ip().to_string());
        await_logged(&instance, &format!("client={from} "), 1);
    }
    // One that asks by TCP is known, too, although its question goes on as a datagram.
    let line =
        format!("kdig +https @{} -p {} +timeout=5 +retry=5 +short test. {kind}", https.ip(), https.port());
    let heard = eventually("an answer by HTTPS", PATIENCE, || {
        let heard = String::from_utf8(converse(&netns, &line, b"")).unwrap().trim().to_owned();
        (!heard.is_empty()).then_some(heard)
    });
    assert_eq!(heard, from.ip().to_string());
    let finished = instance.stop();
    let records = records(&finished.stderr);
    let ip = case.family.pick(from.ip().to_string(), format!("[{}]", from.ip()));
    let of = records.iter().filter(|record| record["client"].starts_with(&format!("{ip}:")));
    let dialled: Vec<_> = of
        .inspect(|record| assert!(record["via"].starts_with(&own[7..]), "{finished}"))
        .map(|record| record["dialled"].to_owned())
        .collect();
    let udp = target.to_string();
    assert_eq!(dialled, [udp.clone(), udp.clone(), udp, https.to_string()], "{finished}");
    assert!(records.iter().all(|record| record["end"] == "closed"), "{finished}");
}
