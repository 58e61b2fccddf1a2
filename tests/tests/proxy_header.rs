//! PROXY headers between the program and the programs that made them common: HAProxy and nginx, as origins that are
//! told who the client is, and as proxies that tell. Which bytes are a header is tested beside the parser.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial};
use spectrum_tests::instance::Instance;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::peer::{Peer, file, read};
use spectrum_tests::require::{NGINX_STREAM_MODULE, Need, met};
use spectrum_tests::veth::client_of;

on_every_path!(
    nginx_as_an_origin_logs_the_client,
    haproxy_as_an_origin_logs_the_client,
    nginx_as_a_proxy_names_the_client,
    haproxy_as_a_proxy_names_the_client,
    a_client_that_haproxy_names_is_passed_on_to_nginx,
    a_header_from_elsewhere_is_the_clients_own_affair,
    health_checks_disturb_nobody_who_expects_headers,
    a_header_leads_to_no_port_of_an_origin_that_is_not_bound,
);

/// The port of the peers. In a namespace of the test's own nobody else does.
const PORT: u16 = 8081;

fn at(case: &Case) -> SocketAddr {
    SocketAddr::new(case.loopback(), PORT)
}

fn start(case: &Case, more: &str) -> Instance {
    let prefix = case.prefix();
    configure(
        &case.server,
        &format!("[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\" }}]\n{more}\n"),
    );
    case.start(CONFIG)
}

/// An nginx that accepts PROXY headers of either version and logs what they say.
fn nginx_origin(case: &Case) -> Peer<'_> {
    let address = at(case);
    let configuration = format!(
        "daemon off; master_process off; pid /run/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\n  \
         log_format saw 'saw $proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port';\n  access_log /run/nginx.log saw;\n  {TEMPORARY}\n  server {{ listen {address} \
         proxy_protocol; return 200 'from nginx'; }}\n}}\n"
    );
    let path = file(&case.server, "nginx.conf", configuration);
    Peer::listening(&case.server, &format!("nginx -c {}", path.display()), address)
}

/// Directories that nginx makes whether or not it needs them.
const TEMPORARY: &str = "client_body_temp_path /run/nginx-body; proxy_temp_path /run/nginx-proxy; \
                         fastcgi_temp_path /run/nginx-fastcgi; uwsgi_temp_path /run/nginx-uwsgi; \
                         scgi_temp_path /run/nginx-scgi;";

fn haproxy<'netns>(netns: &'netns Netns, sections: &str, address: SocketAddr) -> Peer<'netns> {
    let configuration = format!(
        "global\n  log stdout format raw local0\ndefaults\n  log global\n  timeout connect 5s\n  timeout client 10s\n  \
         timeout server 10s\n{sections}"
    );
    let path = file(netns, "haproxy.cfg", configuration);
    Peer::listening(netns, &format!("haproxy -db -f {}", path.display()), address)
}

/// Asks for a page: who asked, and what came.
fn get(netns: &Netns, target: SocketAddr) -> (SocketAddr, String) {
    let mut stream = call(netns, target).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    (stream.local_addr().unwrap(), page)
}

fn await_nginx_log(case: &Case, line: &str) {
    eventually(&format!("{line:?} in the log of nginx"), PATIENCE, || {
        read(&case.server, "/run/nginx.log").lines().any(|logged| logged == line).then_some(())
    });
}

fn seen(client: SocketAddr, dialled: SocketAddr) -> String {
    format!("saw {} {} {} {}", client.ip(), client.port(), dialled.ip(), dialled.port())
}

fn nginx_as_an_origin_logs_the_client(case: &mut Case) {
    if !met("nginx_as_an_origin_logs_the_client", &[Need::Nginx]) {
        return;
    }
    let client = client_of(&case.server);
    let target = case.any_target();
    let _nginx = nginx_origin(case);
    for version in ["v1", "v2"] {
        let _instance = start(case, &format!("origins = [\"{}\"]\nproxy-header = \"{version}\"", at(case)));
        let (address, page) = get(&client, target);
        assert!(page.ends_with("from nginx"), "{page:?}");
        await_nginx_log(case, &seen(address, target));
    }
}

fn haproxy_as_an_origin_logs_the_client(case: &mut Case) {
    if !met("haproxy_as_an_origin_logs_the_client", &[Need::Haproxy]) {
        return;
    }
    let client = client_of(&case.server);
    let target = case.any_target();
    let sections = format!(
        "frontend web\n  mode http\n  bind {} accept-proxy\n  log-format \"saw %ci %cp %fi %fp\"\n  http-request return \
         status 200 content-type text/plain string \"from haproxy\"\n",
        at(case)
    );
    let haproxy = haproxy(&case.server, &sections, at(case));
    for version in ["v1", "v2"] {
        let _instance = start(case, &format!("origins = [\"{}\"]\nproxy-header = \"{version}\"", at(case)));
        let (address, page) = get(&client, target);
        assert!(page.ends_with("from haproxy"), "{page:?}");
        haproxy.await_said(&seen(address, target));
    }
}

/// A service that answers with the client's address and trusts what comes from this host.
fn start_trusting(case: &Case) -> Instance {
    start(case, &format!("respond = \"hello\"\ntrusted-proxies = [\"{}\"]", case.loopback()))
}

/// Dials a proxy and hears from behind the program whom it named.
fn assert_named(instance: &Instance, client: &Netns, proxy: SocketAddr) {
    let heard = dial(client, proxy).unwrap();
    let expected = format!("hello world\nservice=web protocol=tcp dialled={proxy} client={}\n", heard.client);
    assert_eq!(heard.text, expected);
    // And the record says so too.
    await_logged(instance, &format!("client={}", heard.client), 1);
}

/// The address at which the proxies listen for the client.
fn proxy_address(case: &Case) -> SocketAddr {
    SocketAddr::new(spectrum_tests::veth::server_address(case.family), PORT)
}

fn nginx_as_a_proxy_names_the_client(case: &mut Case) {
    if !met("nginx_as_a_proxy_names_the_client", &[Need::Nginx]) {
        return;
    }
    let client = client_of(&case.server);
    let (proxy, target) = (proxy_address(case), case.any_target());
    let configuration = format!(
        "load_module {NGINX_STREAM_MODULE};\ndaemon off; master_process off; pid /run/nginx.pid; error_log stderr;\nevents \
         {{}}\nstream {{ server {{ listen {proxy}; proxy_pass {target}; proxy_protocol on; }} }}\n"
    );
    let path = file(&case.server, "nginx.conf", configuration);
    let _nginx = Peer::listening(&case.server, &format!("nginx -c {}", path.display()), proxy);
    let instance = start_trusting(case);
    assert_named(&instance, &client, proxy);
}

fn haproxy_as_a_proxy_names_the_client(case: &mut Case) {
    if !met("haproxy_as_a_proxy_names_the_client", &[Need::Haproxy]) {
        return;
    }
    let client = client_of(&case.server);
    let (proxy, target) = (proxy_address(case), case.any_target());
    let instance = start_trusting(case);
    for option in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2 check inter 1s",
    ] {
        let sections = format!(
            "listen web\n  mode tcp\n  bind {proxy}\n  unique-id-format %ID\n  server spectrum {target} {option}\n"
        );
        let _haproxy = haproxy(&case.server, &sections, proxy);
        assert_named(&instance, &client, proxy);
    }
}

/// From one proxy to the next: HAProxy names the client to the program, which names it to nginx.
fn a_client_that_haproxy_names_is_passed_on_to_nginx(case: &mut Case) {
    let name = "a_client_that_haproxy_names_is_passed_on_to_nginx";
    if !met(name, &[Need::Haproxy, Need::Nginx]) {
        return;
    }
    let client = client_of(&case.server);
    let (proxy, target) = (proxy_address(case), case.any_target());
    let sections =
        format!("listen web\n  mode tcp\n  bind {proxy}\n  server spectrum {target} send-proxy-v2\n");
    let _nginx = nginx_origin(case);
    let _haproxy = haproxy(&case.server, &sections, proxy);
    let _instance = start(
        case,
        &format!(
            "origins = [\"{}\"]\nproxy-header = \"v1\"\ntrusted-proxies = [\"{}\"]",
            at(case),
            case.loopback()
        ),
    );
    let (address, page) = get(&client, proxy);
    assert!(page.ends_with("from nginx"), "{page:?}");
    await_nginx_log(case, &seen(address, proxy));
}

/// The record has the port that the header names; the origin without a port of its own is dialled at the one that is bound.
fn a_header_leads_to_no_port_of_an_origin_that_is_not_bound(case: &mut Case) {
    let _origin = Origin::saying(&case.server, at(case), "the bound port");
    let other = SocketAddr::new(case.loopback(), PORT + 1);
    let _other = Origin::saying(&case.server, other, "another port");
    let prefix = case.prefix();
    let loopback = case.loopback();
    configure(
        &case.server,
        &format!(
            "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\", ports = {PORT} }}]\norigins = \
             [\"{loopback}\"]\ntrusted-proxies = [\"{loopback}\"]\n"
        ),
    );
    let instance = case.start(CONFIG);
    let target = SocketAddr::new(case.any_address(), PORT);
    let mut stream = call(&case.server, target).unwrap();
    let (protocol, client, named) =
        case.family.pick(("TCP4", "198.51.100.9", "203.0.113.1"), ("TCP6", "2001:db8:9::9", "2001:db8:9::1"));
    write!(stream, "PROXY {protocol} {client} {named} 4000 {}\r\n", other.port()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "the bound port");
    await_logged(&instance, &format!("dialled={}", SocketAddr::new(named.parse().unwrap(), other.port())), 1);
}

fn a_header_from_elsewhere_is_the_clients_own_affair(case: &mut Case) {
    let client = client_of(&case.server);
    let instance = start(case, &format!("respond = \"echo\"\ntrusted-proxies = [\"{}\"]", case.loopback()));
    let said = b"PROXY UNKNOWN\r\n";
    let target = case.any_target();
    let mut stream = call(&client, target).unwrap();
    stream.write_all(said).unwrap();
    let mut heard = [0; 15];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, said);
    // What comes from the trusted prefix without one is refused, and counted as such.
    let mut stream = call(&case.server, target).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(stream.read(&mut heard).is_err(), "answered {heard:?}");
    await_logged(&instance, "header-malformed", 1);
}

/// Every address of the service passes its checks for some intervals.
fn await_checks(case: &Case, instance: &Instance) {
    for _ in 0..5 {
        let mut waited_for = None;
        eventually("another check of both, passed", PATIENCE, || {
            let status = connect(&case.server, instance).ask("status").unwrap();
            let origins = status["services"][0]["origins"].as_array().unwrap();
            assert_eq!(origins.len(), 2, "{status:#}");
            let connected: Option<Vec<(u64, u64)>> = origins
                .iter()
                .map(|origin| {
                    assert_eq!(origin["condition"], "up", "{status:#}");
                    let check = origin.get("last_check")?;
                    Some((check["connected_us"].as_u64()?, check["ago_ms"].as_u64()?))
                })
                .collect();
            let connected = connected?;
            let before = waited_for.get_or_insert_with(|| connected.clone());
            // How long it took differs from check to check.
            before.iter().zip(&connected).all(|(before, now)| before.0 != now.0).then_some(())
        });
    }
}

fn health_checks_disturb_nobody_who_expects_headers(case: &mut Case) {
    let name = "health_checks_disturb_nobody_who_expects_headers";
    if !met(name, &[Need::Haproxy, Need::Nginx]) {
        return;
    }
    let client = client_of(&case.server);
    let target = case.any_target();
    let nginx = nginx_origin(case);
    let haproxy_address = SocketAddr::new(case.loopback(), PORT + 1);
    let sections = format!(
        "frontend web\n  mode http\n  bind {haproxy_address} accept-proxy\n  log-format \"saw %ci %cp %fi \
         %fp\"\n  http-request return status 200 content-type text/plain string \"from haproxy\"\n"
    );
    let haproxy = haproxy(&case.server, &sections, haproxy_address);
    let quiet = haproxy.said();
    let own = format!("saw {} ", case.loopback());
    for version in ["v1", "v2"] {
        let instance = start(
            case,
            &format!(
                "origins = [\"{}\", \"{haproxy_address}\"]\nproxy-header = \"{version}\"\nhealth = {{ interval = \"100ms\", \
                 timeout = \"2s\", fall = 1 }}",
                at(case)
            ),
        );
        await_checks(case, &instance);
        assert_eq!(nginx.said(), "", "nginx complains of checks");
        // To it they are connections of this host's own on which nobody asks for anything.
        haproxy.await_said(&own);
        let said = haproxy.said();
        let logged = said.strip_prefix(&quiet).unwrap();
        assert!(logged.lines().all(|line| line.starts_with(&own)), "HAProxy complains of checks:\n{logged}");
        assert_eq!(read(&case.server, "/run/nginx.log"), "", "nginx takes checks for requests");
        drop(instance);
    }
    // Of a connection that says nothing it does complain.
    drop(call(&case.server, haproxy_address).unwrap());
    haproxy.await_said("Connection closed while waiting for PROXY protocol header");
    // And nobody has become deaf.
    let _instance =
        start(case, &format!("origins = [\"{}\", \"{haproxy_address}\"]\nproxy-header = \"v2\"", at(case)));
    let pages = [(); 2].map(|()| get(&client, target).1);
    assert!(pages.iter().all(|page| page.contains("200 OK")), "{pages:?}");
}
