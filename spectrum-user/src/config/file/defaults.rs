//! `[defaults]`: what services say that say nothing else. Puts it into their tables before those are read, each value with the place
//! where it was typed, so that whoever reads a service need not know of it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::health;
use super::log;
use super::policy;
use super::section::Typed;
use crate::config::udp::BoundProtocols;
use crate::model::RecordKeys;

/// The word of a service that takes no default of a whole table.
const NONE: &str = "none";

/// The keys of `health` that are said by the service whose origins are asked.
const OF_A_SERVICE: [&str; 3] = ["template", "send", "expect"];

/// Refuses what no service could say.
pub(super) fn judge(typed: Typed<'_, '_>) {
    let Some(section) = typed.section("a table, [defaults]") else { return };
    if let Some(typed) = section.take("timeouts") {
        let _ = policy::timeouts(typed);
    }
    if let Some(typed) = section.take("limits") {
        let _ = policy::limits_of_any(typed);
    }
    if let Some(typed) = section.take("health") {
        let asks = typed
            .value()
            .as_table()
            .into_iter()
            .flat_map(|table| OF_A_SERVICE.into_iter().filter(|key| table.contains_key(*key)));
        let asks: Vec<&str> = asks.collect();
        for key in &asks {
            typed.refuse_key(
                key,
                "what is asked by UDP is another thing for each service; say it in health of [[service]]",
            );
        }
        if asks.is_empty() {
            let tcp = BoundProtocols { tcp: true, udp: false };
            let _ = health::read(typed, tcp, (None, None));
        }
    }
    if let Some(typed) = section.take("log") {
        let _ = log::of_service(typed);
    }
    section.finish();
}

/// The keys about records of `[defaults]`. Neither of two that say one thing would win: those of `[log]` say it for all services, too.
pub(super) fn records(typed: Typed<'_, '_>, log: Option<Typed<'_, '_>>) -> RecordKeys {
    let said =
        |typed: Typed<'_, '_>, key| typed.value().as_table().is_some_and(|table| table.contains_key(key));
    for key in ["records", "sample", "opened", "empty"] {
        if said(typed, key) && log.is_some_and(|log| said(log, key)) {
            typed
                .refuse_key(key, format_args!("log.{key} says it for all services, too; remove one of them"));
        }
    }
    log::of_service(typed)
}

/// Gives every service of `root` the defaults for which it has room, and takes `health = "none"` out of them. They have been judged.
pub(super) fn apply(root: &mut DeTable<'_>) {
    let defaults = root.get("defaults").and_then(|value| value.get_ref().as_table()).cloned();
    let defaults = defaults.unwrap_or_default();
    let Some(DeValue::Array(services)) = root.get_mut("service").map(Spanned::get_mut) else { return };
    let default = |key: &str| defaults.get_key_value(key);
    for service in services.iter_mut() {
        let DeValue::Table(service) = service.get_mut() else { continue };
        // What others answer has nothing that could be said of it.
        let is_registered =
            matches!(service.get("registered").map(Spanned::get_ref), Some(DeValue::Boolean(true)));
        if is_registered || service.contains_key("sockets") {
            continue;
        }
        let binds_tcp = binds_tcp(service);
        if let Some((key, values)) = default("timeouts").filter(|_| binds_tcp) {
            fill(service, key, values, |_| true);
        }
        if let Some((key, values)) = default("limits") {
            let is_by_source = |table: &DeTable<'_>| {
                ["connections-per-source", "rate-per-source"].iter().any(|key| table.contains_key(*key))
            };
            let own =
                service.get("limits").and_then(|value| value.get_ref().as_table()).is_some_and(is_by_source);
            let is_by_source = own || values.get_ref().as_table().is_some_and(is_by_source);
            fill(service, key, values, |key| is_by_source || !key.starts_with("source-"));
        }
        let own = service.get("health").map(Spanned::get_ref);
        if own.and_then(DeValue::as_str) == Some(NONE) {
            service.remove("health");
            continue;
        }
        let asks = own
            .and_then(DeValue::as_table)
            .is_some_and(|own| ["template", "send"].iter().any(|key| own.contains_key(*key)));
        if let Some((key, values)) = default("health")
            && service.contains_key("origins")
            && (binds_tcp || asks)
        {
            // Checks by UDP have no connection to close.
            fill(service, key, values, |key| !(asks && key == "close"));
        }
    }
}

/// Adds the keys of `values` for which there `is_room` to the table `key` of `service`, those that it has not.
fn fill<'t>(
    service: &mut DeTable<'t>,
    key: &Spanned<toml::de::DeString<'t>>,
    values: &Spanned<DeValue<'t>>,
    is_room: impl Fn(&str) -> bool,
) {
    let Some(values_table) = values.get_ref().as_table() else { return };
    let room: Vec<_> = values_table.iter().filter(|(key, _)| is_room(key.get_ref())).collect();
    if room.is_empty() && !values_table.is_empty() {
        return;
    }
    let name: &str = key.get_ref();
    if !service.contains_key(name) {
        service.insert(key.clone(), Spanned::new(values.span(), DeValue::Table(DeTable::new())));
    }
    // What is no table is refused by who reads it.
    let Some(DeValue::Table(own)) = service.get_mut(name).map(Spanned::get_mut) else { return };
    for (key, value) in room {
        if !own.contains_key(key.get_ref().as_ref()) {
            own.insert(key.clone(), value.clone());
        }
    }
}

/// True unless all bindings say that they are for UDP alone.
fn binds_tcp(service: &DeTable<'_>) -> bool {
    let bindings = service.get("bindings").and_then(|value| value.get_ref().as_array());
    bindings.is_none_or(|bindings| {
        bindings.iter().any(|binding| {
            let table = binding.get_ref().as_table();
            let protocol = table.and_then(|table| table.get("protocol")?.get_ref().as_str());
            protocol != Some("udp")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::Config;
    use crate::model::{HealthProbe, Service, Target};

    const DEFAULTS: &str = "[defaults]\ntimeouts = { idle = \"7s\", connect = \"2s\" }\n\
        limits = { connections = 10, source-ipv4 = 24 }\nlog = { opened = true }\n\
        health = { interval = \"3s\", port = 80, close = \"reset\" }\n";

    fn services(text: &str) -> Vec<Service> {
        let text = format!("{DEFAULTS}{text}");
        Config::parse(Path::new("f.toml"), &text).unwrap_or_else(|error| panic!("{error}")).config.services
    }

    fn interval(service: &Service) -> Option<Duration> {
        let Target::Origins(origins) = &service.target else { return None };
        origins.health.as_ref().map(|health| health.interval)
    }

    #[test]
    fn a_key_of_a_service_wins_over_the_default() {
        let services = services(
            "[[service]]\nname = \"a\"\norigins = [\"10.0.0.1\"]\nbindings = [{ prefix = \"192.0.2.1\" }]\n\
             timeouts = { idle = \"1s\" }\nhealth = { port = 81 }\n\
             limits = { rate-per-source = 3 }\n\
             [[service]]\nname = \"b\"\norigins = [\"10.0.0.1\"]\nbindings = [{ prefix = \"192.0.2.2\" }]\nhealth = \"none\"\n\
             [[service]]\nname = \"c\"\nrespond = \"echo\"\nbindings = [{ prefix = \"192.0.2.3\" }]\n",
        );
        let [a, b, c] = services.as_slice() else { panic!("{services:?}") };
        let seconds = Duration::from_secs;
        assert_eq!((a.policy.timeouts.idle, a.policy.timeouts.connect), (Some(seconds(1)), seconds(2)));
        assert_eq!((b.policy.timeouts.idle, b.policy.timeouts.connect), (Some(seconds(7)), seconds(2)));
        assert_eq!((interval(a), interval(b), interval(c)), (Some(seconds(3)), None, None));
        assert_eq!((a.policy.limits.source_ipv4, b.policy.limits.source_ipv4), (24, 32));
        assert_eq!(a.policy.limits.connections, c.policy.limits.connections);
        let Target::Origins(origins) = &a.target else { panic!("{a:?}") };
        assert_eq!(origins.health.as_ref().unwrap().port, Some(81));
    }

    #[test]
    fn what_is_about_tcp_is_not_said_of_udp() {
        let services = services(
            "[[service]]\nname = \"a\"\norigins = [\"10.0.0.1\"]\n\
             bindings = [{ prefix = \"192.0.2.1\", protocol = \"udp\" }]\n\
             [[service]]\nname = \"b\"\norigins = [\"10.0.0.1\"]\nhealth = { template = \"dns\" }\n\
             bindings = [{ prefix = \"192.0.2.2\", protocol = \"udp\" }]\n",
        );
        assert_eq!((interval(&services[0]), interval(&services[1])), (None, Some(Duration::from_secs(3))));
        let Target::Origins(origins) = &services[1].target else { panic!("no origins") };
        assert!(matches!(origins.health.as_ref().unwrap().probe, HealthProbe::Datagram(_)));
    }

    #[test]
    fn records_of_all_are_those_of_the_log() {
        let text = format!(
            "{DEFAULTS}[log]\nempty = true\n[[service]]\nname = \"a\"\nrespond = \"echo\"\n\
             bindings = [{{ prefix = \"192.0.2.1\" }}]\nlog = {{ opened = false }}\n"
        );
        let config = Config::parse(Path::new("f.toml"), &text).unwrap().config;
        assert_eq!(config.log.general.to_string(), "opened true, empty true");
        assert_eq!(config.log.of(&"a".parse().unwrap()).to_string(), "opened false, empty true");
    }
}
