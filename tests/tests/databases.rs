//! Clients denied and allowed by country and AS, from databases of networks that a user brings, on every path. The databases are written
//! here; what is said about bad ones is tested where they are read.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::SocketAddr;

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::judged::{Told, client, own_clients, prefix_of, services_with, told, told_by_datagram};
use spectrum_tests::mmdb::{Field, Mmdb};
use spectrum_tests::on_every_path;

on_every_path!(
    whom_a_country_or_an_as_denies_is_refused,
    a_database_that_changes_is_read_again_and_a_broken_one_changes_nothing,
);

fn write(case: &Case, name: &str, bytes: &[u8]) {
    case.server.run(|| {
        std::fs::write("/run/mmdb.new", bytes).unwrap();
        std::fs::rename("/run/mmdb.new", format!("/run/{name}")).unwrap();
    });
}

/// The program with this policy.
fn serve(case: &Case, policy: &str) -> Instance {
    own_clients(case);
    configure(&case.server, &services_with(case, policy, ""));
    case.start(CONFIG)
}

/// Sixteen clients are of a country, the upper half of them of an AS there; the others are of nobody.
fn countries(case: &Case, first: u8) -> Vec<u8> {
    Mmdb::new("GeoLite2-Country", 28).with(&prefix_of(case, first, 4), &Field::country("KP")).bytes()
}

fn whom_a_country_or_an_as_denies_is_refused(case: &mut Case) {
    write(case, "country.mmdb", &countries(case, 16));
    let systems = Mmdb::new("GeoLite2-ASN", 24)
        .with(&prefix_of(case, 24, 3), &Field::system(64_496))
        .with(&prefix_of(case, 64, 3), &Field::system(4_200_000_000));
    write(case, "asn.mmdb", &systems.bytes());
    let policy = "[policy]\nmmdb = [\"country.mmdb\", \"asn.mmdb\"]\n\
                  deny = [\"country:KP\", \"as:4200000000\"]\nallow = [\"as:64496\"]\n";
    let instance = serve(case, policy);
    let target = SocketAddr::new(case.address(7), 80);
    for (number, expected) in [
        (15, Told::LetIn),
        (16, Told::Refused),
        (23, Told::Refused),
        (24, Told::LetIn),
        (31, Told::LetIn),
        (32, Told::LetIn),
        (64, Told::Refused),
        (72, Told::LetIn),
    ] {
        assert_eq!(told(case, client(case, number), target, expected), expected, "client {number} by TCP");
        assert_eq!(
            told_by_datagram(case, client(case, number), target, expected),
            expected,
            "client {number} by UDP"
        );
    }
    let from = SocketAddr::new(client(case, 17), 999);
    let explained =
        Launch::new(&case.server).arguments(&format!("explain tcp {target} --from {from}")).finish().stdout;
    let by = format!("denied by deny country:KP, network {} of country.mmdb", prefix_of(case, 16, 4));
    assert!(explained.contains(&by), "{by}: {explained}");
    let checked = Launch::new(&case.server).arguments("check --config /run/spectrum.toml").finish().stdout;
    let said = "country.mmdb (GeoLite2-Country of 2026-01-01T00:00:00Z): country:KP 1 networks";
    assert!(checked.contains(said), "{checked}");
    instance.stop();
}

fn a_database_that_changes_is_read_again_and_a_broken_one_changes_nothing(case: &mut Case) {
    write(case, "country.mmdb", &countries(case, 16));
    let policy = "[policy]\nmmdb = \"country.mmdb\"\ndeny = \"country:KP\"\n";
    let instance = serve(case, policy);
    let target = SocketAddr::new(case.address(7), 80);
    let is_denied = |number| told(case, client(case, number), target, Told::Refused) == Told::Refused;
    assert!(is_denied(16) && !is_denied(32));
    write(case, "country.mmdb", &countries(case, 32));
    eventually("the database that has changed", PATIENCE, || is_denied(32).then_some(()));
    assert!(!is_denied(16));
    // As a download that broke off leaves it.
    let sound = countries(case, 48);
    write(case, "country.mmdb", &sound[..sound.len() - 100]);
    let status = || connect(&case.server, &instance).ask("status").unwrap();
    eventually("word of the broken one", PATIENCE, || {
        let unseen = status()["unseen"].to_string();
        (unseen.contains("country.mmdb") && unseen.contains("what they said before holds")).then_some(())
    });
    assert!(is_denied(32) && !is_denied(48));
    write(case, "country.mmdb", &sound);
    eventually("the database that is right again", PATIENCE, || is_denied(48).then_some(()));
    assert!(!is_denied(32));
    eventually("nothing to tell", PATIENCE, || status()["unseen"].is_null().then_some(()));
    instance.stop();
}
