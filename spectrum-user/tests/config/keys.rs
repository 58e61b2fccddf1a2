//! The list of keys, the schema and the effective configuration: that they are of what is read. Does not test what keys mean.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spectrum_user::config::{Config, KEYS, schema};
use toml::de::{DeTable, DeValue};

use super::parse;

const SERVICE: &str = "[[service]]\nname = \"a\"\norigins = [\"10.0.0.1:53\"]\nbindings = [{ prefix = \"192.0.2.1\", ports = 53, \
                       protocol = \"both\" }]\n";

/// The keys that the reader expects in the table of the list's name.
fn read(table: &str) -> BTreeSet<String> {
    let text = match table {
        "" => format!("zzzz = 1\n{SERVICE}"),
        "service" => format!("{SERVICE}zzzz = 1\n"),
        "binding" => SERVICE.replace("ports = 53", "ports = 53, zzzz = 1"),
        "origin" => SERVICE.replace("\"10.0.0.1:53\"", "{ origin = \"10.0.0.1:53\", zzzz = 1 }"),
        "policy-file" => format!("[policy]\ndeny = [{{ file = \"x\", zzzz = 1 }}]\n{SERVICE}"),
        "service.health" => format!("{SERVICE}health = {{ template = \"dns\", zzzz = 1 }}\n"),
        table if table.starts_with("service.") => format!("{SERVICE}[{table}]\nzzzz = 1\n"),
        table => format!("[{table}]\nzzzz = 1\n{SERVICE}"),
    };
    let told = parse(&text).unwrap_err().to_string();
    let expected = told.lines().find_map(|line| Some(line.split_once("zzzz: unknown key; expected ")?.1));
    let expected = expected.unwrap_or_else(|| panic!("{table}: {told}"));
    expected.replace(" or ", ", ").split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_that_is_read_is_in_the_list_and_every_other_way_round() {
    let tables: BTreeSet<&str> = KEYS.iter().map(|spec| spec.table).collect();
    for table in tables {
        let listed: BTreeSet<String> =
            KEYS.iter().filter(|spec| spec.table == table).map(|spec| spec.key.to_owned()).collect();
        assert_eq!(listed, read(table), "[{table}]: KEYS of config/key_list.rs is not what is read");
    }
}

/// The configurations that are shipped.
fn shipped() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let files = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn the_example_has_every_key() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/spectrum.toml")).unwrap();
    for spec in KEYS {
        let is_there = text.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.contains(&format!("{} = ", spec.key)) || line.contains(&format!("{}]", spec.key))
        });
        assert!(is_there, "[{}] {} is not in config/spectrum.toml", spec.table, spec.key);
    }
}

/// What is wrong with `value` by `schema`, as far as ours go.
fn wrong(schema: &Value, value: &DeValue<'_>, path: &str) -> Option<String> {
    let said = |reason: &str| Some(format!("{path}: {reason}"));
    if let Some(forms) = schema.get("anyOf").and_then(Value::as_array) {
        let all: Vec<String> = forms.iter().filter_map(|form| wrong(form, value, path)).collect();
        return (all.len() == forms.len()).then(|| all.join(" and "));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let is_one = words.iter().any(|word| word.as_str() == value.as_str());
        return if is_one { None } else { said("none of the words") };
    }
    if let Some(word) = schema.get("const") {
        return if word.as_str() == value.as_str() { None } else { said("not the word") };
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("boolean", DeValue::Boolean(_)) | ("string", DeValue::String(_)) => None,
        ("integer", DeValue::Integer(number)) => {
            let range = schema["minimum"].as_i64().unwrap()..=schema["maximum"].as_i64().unwrap();
            let number = i64::from_str_radix(number.as_str(), number.radix()).unwrap();
            if range.contains(&number) { None } else { said("out of range") }
        }
        ("array", DeValue::Array(list)) => list
            .iter()
            .enumerate()
            .find_map(|(index, one)| wrong(&schema["items"], one.get_ref(), &format!("{path}[{index}]"))),
        ("object", DeValue::Table(table)) => table.iter().find_map(|(key, value)| {
            let path = format!("{path}.{}", key.get_ref());
            match schema["properties"].get(key.get_ref().as_ref()) {
                Some(schema) => wrong(schema, value.get_ref(), &path),
                None => Some(format!("{path}: unknown")),
            }
        }),
        (expected, _) => said(&format!("not {expected}")),
    }
}

fn judged(text: &str) -> Option<String> {
    wrong(&schema(), &DeValue::Table(DeTable::parse(text).unwrap().into_inner()), "")
}

#[test]
fn every_shipped_configuration_is_of_the_schema() {
    let files = shipped();
    assert!(!files.is_empty());
    for path in files {
        assert_eq!(judged(&fs::read_to_string(&path).unwrap()), None, "{}", path.display());
    }
    for (text, expected) in [
        ("[dispatcher]\nmod = 1\n", ".dispatcher.mod: unknown"),
        ("[dispatcher]\nmode = \"ebpf\"\n", ".dispatcher.mode: none of the words"),
        ("[[service]]\nbindings = [{ ports = 0 }]\n", ".service[0].bindings[0].ports: out of range"),
        ("[defaults]\ntimeouts = { idle = 5 }\n", ".defaults.timeouts.idle: not string"),
    ] {
        assert!(judged(text).is_some_and(|wrong| wrong.starts_with(expected)), "{text}: {:?}", judged(text));
    }
}

#[test]
fn the_effective_configuration_is_a_file_that_means_the_same() {
    let more = "[defaults]\nhealth = { port = 80 }\nlimits = { rate-per-source = 5 }\ntimeouts = { idle = \"7s\" }\n\
                [[service]]\nname = \"a\"\norigins = { origin = \"a.example\", weight = 3 }\n\
                bindings = [{ prefix = [\"192.0.2.1\", \"2001:db8::/64\"], ports = [80, \"90-99\"] }]\nejection = {}\n\
                [[service]]\nname = \"b\"\norigins = [\"10.0.0.1\"]\nhealth = \"none\"\nudp = { idle = \"1s\" }\n\
                bindings = [{ prefix = \"192.0.2.2\", ports = 0x50, protocol = \"udp\" }]\n";
    let mut texts: Vec<String> = shipped().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    texts.push(more.to_owned());
    for text in texts {
        let config = parse(&text).unwrap();
        let effective = config.keys.clone().filled().to_toml();
        let again = parse(&effective).unwrap_or_else(|error| panic!("{error}\n{effective}"));
        assert_eq!(config.services, again.services, "{effective}");
        assert_eq!(config.log.general.unusual(), again.log.general.unusual(), "{effective}");
        let general = |config: &Config| {
            (
                (config.mode, config.firewall, config.nat, config.repairs, config.admin),
                (config.force.clone(), config.resolver.clone(), config.log.services.clone()),
                config.instance.clone().or(spectrum_user::config::InstanceKeys {
                    drain: Some(spectrum_user::config::InstanceKeys::DRAIN),
                    single_process: Some(false),
                    pin: Some(false),
                    ..Default::default()
                }),
            )
        };
        assert_eq!(general(&config), general(&again), "{effective}");
        // And it says all there is.
        assert_eq!(again.keys.filled().to_toml().lines().count(), effective.lines().count());
    }
    let effective = parse(more).unwrap().keys.filled().to_toml();
    for line in [
        "timeouts.idle = \"7s\"  # [defaults], spectrum.toml:4",
        "timeouts.connect = \"5s\"  # built in",
        "udp.idle = \"1s\"  # spectrum.toml:14",
        "health.interval = \"5s\"  # built in",
    ] {
        assert!(effective.lines().any(|said| said == line), "{line}\n{effective}");
    }
}
