//! Databases of networks: which of them become entries of policies, and what is said about bad ones. Fetches none: it writes its own.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use spectrum_user::config::{Config, PolicyPlace};
use spectrum_user::model::SourceRule;

use super::mmdb::{Field, Mmdb};

/// A directory for one test, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spectrum-mmdb-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The file that is to be loaded: a service that serves everybody but by this policy.
    fn configured(&self, policy: &str) -> PathBuf {
        let file = self.0.join("spectrum.toml");
        let service =
            "[[service]]\nname = \"a\"\nrespond = \"hello\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";
        fs::write(&file, format!("[policy]\n{policy}\n{service}")).unwrap();
        file
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    /// The problems, without the directory.
    fn refused(&self, policy: &str) -> String {
        let error = Config::load(&self.configured(policy)).unwrap_err().to_string();
        error.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn countries(record_size: u16) -> Mmdb {
    Mmdb::new("GeoLite2-Country", record_size)
        .with("175.45.176.0/22", &Field::country("KP"))
        .with("2001:db8:4b50::/48", &Field::country("KP"))
        .with("198.51.100.0/24", &Field::country("DE"))
        .with("203.0.113.0/25", &Field::country("DE"))
        .with("192.0.0.0/24", &Field::Table(Vec::new()))
}

fn systems() -> Mmdb {
    Mmdb::new("GeoLite2-ASN", 24)
        .with("198.51.100.0/24", &Field::system(64_496))
        .with("203.0.113.0/26", &Field::system(64_496))
        .with("2001:db8:64::/48", &Field::system(4_200_000_000))
}

#[test]
fn the_networks_of_countries_and_systems_are_entries_like_those_of_lists() {
    let directory = Directory::new("entries");
    directory.write("asn.mmdb", &systems().bytes());
    for record_size in [24, 28, 32] {
        directory.write("country.mmdb", &countries(record_size).bytes());
        let policy = "mmdb = [\"country.mmdb\", \"asn.mmdb\"]\n\
                      deny = [\"country:KP\", \"country:de\", \"country:AQ\", \"203.0.113.128/25\"]\n\
                      allow = [\"as:64496\", \"as:4200000000\"]\n";
        let planned = Config::load(&directory.configured(policy)).unwrap();
        let policies = &planned.plan.policies;
        let word = |source: &str| {
            let source: IpAddr = source.parse().unwrap();
            policies.decisive(&"a".parse().unwrap(), source).map(|(_, entry)| entry.rule)
        };
        for (source, expected) in [
            ("175.45.177.9", Some(SourceRule::Deny)),
            ("175.45.180.1", None),
            ("2001:db8:4b50:7::1", Some(SourceRule::Deny)),
            // One network that both have: the system is the narrower word.
            ("198.51.100.1", Some(SourceRule::Allow)),
            // A longer one of the system.
            ("203.0.113.1", Some(SourceRule::Allow)),
            ("203.0.113.65", Some(SourceRule::Deny)),
            ("203.0.113.129", Some(SourceRule::Deny)),
            ("2001:db8:64::1", Some(SourceRule::Allow)),
            // The other names of IPv4 networks are nobody's.
            ("2002:af2d:b001::1", None),
            ("2001:0:af2d:b001::1", None),
            ("::175.45.177.9", None),
        ] {
            assert_eq!(word(source), expected, "{source} with records of {record_size} bits");
        }
        // As many as there are networks, and none for an alias.
        assert_eq!(policies.common.entries().len(), 7);
        let source = "175.45.177.9".parse().unwrap();
        let (_, entry) = policies.decisive(&"a".parse().unwrap(), source).unwrap();
        assert_eq!(entry.prefix.to_string(), "175.45.176.0/22");
        let places = &planned.config.policy_places;
        let Some(PolicyPlace::Network { database, group }) = places.of(None, &policies.common, entry) else {
            panic!("{entry:?} is of no database");
        };
        assert_eq!((database.name().as_str(), group.to_string().as_str()), ("country.mmdb", "country:KP"));
        let counts: Vec<(String, usize)> =
            database.groups.iter().map(|(group, count)| (group.to_string(), *count)).collect();
        let expected = [("country:AQ", 0), ("country:DE", 2), ("country:KP", 2)];
        assert_eq!(counts, expected.map(|(group, count)| (group.to_owned(), count)));
        let watched: Vec<_> = places.lists().iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(watched, ["country.mmdb", "asn.mmdb"]);
    }
}

#[test]
fn databases_of_others_and_of_ipv4_alone_are_understood() {
    let directory = Directory::new("others");
    let flat = |code: &str| Field::Table(vec![("country_code", Field::Text(code.to_owned()))]);
    let lite = |code: &str, system: &str| {
        Field::Table(vec![
            ("asn", Field::Text(system.to_owned())),
            ("country", Field::Text("A country by its name".to_owned())),
            ("country_code", Field::Text(code.to_owned())),
        ])
    };
    let registered = Field::Table(vec![(
        "registered_country",
        Field::Table(vec![("iso_code", Field::Text("KP".to_owned()))]),
    )]);
    let traits = Field::Table(vec![("traits", Field::system(7))]);
    for (mmdb, named) in [
        (Mmdb::of_ipv4("flat").with("198.51.100.0/24", &flat("KP")), "country:KP"),
        (Mmdb::new("lite", 32).with("198.51.100.0/24", &lite("KP", "AS7")), "country:KP"),
        (Mmdb::new("lite", 32).with("198.51.100.0/24", &lite("KP", "AS7")), "as:7"),
        (Mmdb::new("registered", 28).with("198.51.100.0/24", &registered), "country:KP"),
        (Mmdb::new("enterprise", 28).with("198.51.100.0/24", &traits), "as:7"),
    ] {
        directory.write("x.mmdb", &mmdb.bytes());
        let policy = format!("mmdb = \"x.mmdb\"\ndeny = \"{named}\"\n");
        let planned = Config::load(&directory.configured(&policy)).unwrap();
        let entries = planned.plan.policies.common.entries();
        let prefixes: Vec<String> = entries.iter().map(|entry| entry.prefix.to_string()).collect();
        assert_eq!(prefixes, ["198.51.100.0/24"], "{named}");
    }
}

#[test]
fn what_is_wrong_with_a_database_is_told_with_its_cure() {
    let directory = Directory::new("bad");
    let policy = "mmdb = [\"country.mmdb\"]\ndeny = [\"country:KP\"]";
    assert_eq!(
        directory.refused(policy),
        "spectrum.toml:2:9: policy.mmdb[0]: \"country.mmdb\": read country.mmdb: No such file or directory (os error 2); fetch it, or \
         take it out"
    );
    let sound = countries(24).bytes();
    for (bytes, reason) in [
        (&b""[..], "invalid database"),
        (b"175.45.176.0/22\n", "invalid database"),
        // An update that broke off.
        (&sound[..sound.len() / 2], "invalid database"),
        // The end of the file alone.
        (&sound[sound.len() - 180..], "invalid database"),
    ] {
        directory.write("country.mmdb", bytes);
        let told = directory.refused(policy);
        let begin = "spectrum.toml:2:9: policy.mmdb[0]: \"country.mmdb\": read country.mmdb: it is no sound database in MaxMind's \
                     format: ";
        assert!(
            told.starts_with(begin) && told.contains(reason) && told.ends_with("; fetch it again"),
            "{told}"
        );
    }
    directory.write("asn.mmdb", &systems().bytes());
    assert_eq!(
        directory.refused("mmdb = [\"asn.mmdb\"]\ndeny = [\"country:KP\"]"),
        "spectrum.toml:3:9: policy.deny[0]: \"country:KP\": none of mmdb of [policy] says anything of countries: asn.mmdb \
         (GeoLite2-ASN); add a database that does"
    );
    directory.write("country.mmdb", &sound);
    assert_eq!(
        directory
            .refused("mmdb = [\"country.mmdb\"]\ndeny = [\"country:KP\"]\nallow = [\"175.45.176.0/22\"]"),
        "spectrum.toml:3:9: policy.deny: 175.45.176.0/22 is allowed in spectrum.toml:4 and denied as country:KP of country.mmdb; \
         remove one of them, or write the two halves of the prefix, 175.45.176.0/23 and the other, which then decide"
    );
}
