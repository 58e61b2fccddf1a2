//! Names of origins as this host resolves them: by /etc/hosts and /etc/resolv.conf, in a namespace that has an /etc of its own.
//! What becomes of answers is tested in `origins.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::{IpAddr, SocketAddr};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::dial;
use spectrum_tests::instance::Instance;
use spectrum_tests::name_server::NameServer;
use spectrum_tests::on_one_path;
use spectrum_tests::origin::Origin;

on_one_path!(
    the_hosts_file_is_read_again_when_it_changes,
    a_search_domain_completes_a_name_and_a_long_answer_comes_over_tcp,
    a_name_server_that_is_not_there_is_followed_by_the_next,
    other_name_servers_are_asked_when_the_file_names_others,
);

/// The address of the server that resolv.conf names.
const SERVER: &str = "127.0.0.53";

/// Gives the namespace an /etc that nobody else sees.
fn own_etc(case: &Case) {
    for command in ["cp --archive /etc /run/etc", "mount --bind /run/etc /etc"] {
        case.server.command(command);
    }
}

/// Puts `text` in the place of a file of /etc, as an editor does.
fn replace(case: &Case, file: &str, text: &str) {
    case.server.run(|| {
        let new = format!("/etc/{file}.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, format!("/etc/{file}")).unwrap();
    });
}

/// Writes `text` into a file of /etc.
fn write(case: &Case, file: &str, text: &str) {
    case.server.run(|| fs::write(format!("/etc/{file}"), text).unwrap());
}

/// The `last` of the addresses at which origins are.
fn place(case: &Case, last: u8) -> IpAddr {
    case.family.parse(&format!("127.1.0.{last}"), &format!("fd00::{last:x}"))
}

/// Origins that say these words, at the first addresses and one port.
fn saying<const N: usize>(case: &Case, words: [&'static str; N]) -> u16 {
    case.server.ip("-6 route add local fd00::/64 dev lo");
    let mut port = 0;
    for (last, word) in (1..).zip(words) {
        port = Origin::saying(&case.server, SocketAddr::new(place(case, last), port), word).address().port();
    }
    port
}

/// An instance whose origin is `name`.
fn serve(case: &Case, name: &str, port: u16) -> Instance {
    let text = format!(
        "[resolver]\ntimeout = \"1s\"\n[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\n\
         origins = [\"{name}:{port}\"]\nlocal-origins = true\n",
        case.prefix()
    );
    configure(&case.server, &text);
    case.start(CONFIG)
}

fn await_word(case: &mut Case, word: &str) {
    let target = SocketAddr::new(case.any_address(), 80);
    eventually(&format!("an origin says {word}"), PATIENCE, || {
        dial(&case.server, target).is_ok_and(|heard| heard.text == word).then_some(())
    });
}

fn the_hosts_file_is_read_again_when_it_changes(case: &mut Case) {
    own_etc(case);
    let port = saying(case, ["one", "two", "three"]);
    let hosts = |last| format!("{} game.example game # ours\n", place(case, last));
    let [first, second, third] = [1, 2, 3].map(hosts);
    // Nobody could be asked.
    write(case, "resolv.conf", "nameserver 127.0.0.99\n");
    write(case, "hosts", &first);
    let instance = serve(case, "game.example", port);
    await_word(case, "one");
    write(case, "hosts", &second);
    await_word(case, "two");
    // The worker process may not open what came in its place, and has it opened.
    replace(case, "hosts", &third);
    await_word(case, "three");
    assert!(!instance.stderr().contains("no name server"), "{}", instance.stderr());
}

fn a_search_domain_completes_a_name_and_a_long_answer_comes_over_tcp(case: &mut Case) {
    own_etc(case);
    let server = NameServer::start_at(&case.server, format!("{SERVER}:53").parse().unwrap());
    let port = saying(case, ["found"]);
    write(case, "hosts", "127.0.0.1 localhost\n");
    write(case, "resolv.conf", &format!("nameserver {SERVER}\nsearch nothing.example some.example\n"));
    server.set("web.some.example", &[place(case, 1)]);
    let instance = serve(case, "web", port);
    await_word(case, "found");
    assert_eq!(server.queries_over_tcp(), 0, "one address fits into a datagram");
    drop(instance);
    // All of them are this one server, which is asked again since so many do not fit.
    case.server.ip("-6 route add local fd09::/64 dev lo");
    let addresses: Vec<IpAddr> = (1..=200_u8)
        .map(|last| case.family.parse(&format!("127.9.0.{last}"), &format!("fd09::{last:x}")))
        .collect();
    let everywhere = case.family.parse("0.0.0.0", "::");
    let port = Origin::saying(&case.server, SocketAddr::new(everywhere, 0), "many").address().port();
    server.set("many.some.example", &addresses);
    let _instance = serve(case, "many", port);
    await_word(case, "many");
    assert!(server.queries_over_tcp() > 0, "{} addresses came in a datagram", addresses.len());
}

fn a_name_server_that_is_not_there_is_followed_by_the_next(case: &mut Case) {
    own_etc(case);
    let port = saying(case, ["found"]);
    let server = NameServer::start_at(&case.server, format!("{SERVER}:53").parse().unwrap());
    server.set("web.example", &[place(case, 1)]);
    write(case, "resolv.conf", &format!("nameserver 127.0.0.99\nnameserver {SERVER}\noptions timeout:1\n"));
    let _instance = serve(case, "web.example", port);
    await_word(case, "found");
}

fn other_name_servers_are_asked_when_the_file_names_others(case: &mut Case) {
    own_etc(case);
    let port = saying(case, ["found"]);
    let server = NameServer::start_at(&case.server, format!("{SERVER}:53").parse().unwrap());
    server.set("web.example", &[place(case, 1)]);
    write(case, "resolv.conf", "nameserver 127.0.0.99\n");
    let instance = serve(case, "web.example", port);
    // It goes on without, and says so.
    await_logged(&instance, "resolve origin", 1);
    replace(case, "resolv.conf", &format!("nameserver {SERVER}\n"));
    await_word(case, "found");
}
