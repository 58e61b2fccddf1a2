//! What answers a service, in words, as far as it is not what holds anyway. Says nothing of how it fares.

use humantime::format_duration;

use crate::model::{
    Balance, CheckClose, DialOn, DialSource, HealthProbe, LocalOrigins, Origin, OriginRole, Origins, Service,
    SocketSource, Target, UniqueIds, Weight,
};

/// The target of `service` in words, the first `named` of its origins by name, and whose word it takes for who the client
/// is. What stands between semicolons stands for itself.
pub(super) fn described(service: &Service, looked_for: Option<&Vec<SocketSource>>, named: usize) -> String {
    let mut text = described_target(&service.target, named);
    if let Some(sources) = looked_for {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        text = format!("{text}; looked for: {}", sources.join(", "));
    }
    let trusted = &service.policy.trusted_proxies.prefixes;
    if trusted.is_empty() {
        return text;
    }
    format!(
        "{text}; PROXY headers from {}",
        trusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )
}

/// `respond hello`, or the origins and how a connection gets to one of them.
fn described_target(target: &Target, named: usize) -> String {
    match target {
        Target::Origins(origins) => format!("origins {}", described_origins(origins, named)),
        Target::Registered => "registered sockets of other programs".to_owned(),
        Target::Respond(responder) => format!("respond {responder}"),
    }
}

fn described_origins(origins: &Origins, named: usize) -> String {
    let mut text = origins.list.iter().take(named).map(described_origin).collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = origins.list.len().checked_sub(named) {
        text = format!("{text} and {more} more");
    }
    if origins.balance != Balance::default() {
        text = format!("{text}; {}", origins.balance);
    }
    if let Some(health) = &origins.health {
        let (interval, timeout) = (format_duration(health.interval), format_duration(health.timeout));
        let port = health.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let (rise, fall) = (health.rise, health.fall);
        let asks = match &health.probe {
            HealthProbe::Connect => String::new(),
            HealthProbe::Datagram(probe) => format!(" by {}", probe.question),
        };
        text = format!(
            "{text}; checked every {interval}{port}{asks}, timeout {timeout}, rise {rise}, fall {fall}"
        );
        if health.close == CheckClose::Reset {
            text.push_str(", closed by reset");
        }
    }
    if let Some(ejection) = origins.ejection {
        let (failures, time) = (ejection.failures, format_duration(ejection.time));
        text = format!("{text}; ejected for {time} after {failures} failures");
    }
    if origins.dial_on == DialOn::FirstByte {
        text.push_str("; dialled on the first byte");
    }
    let version = origins.header.map(|version| version.to_string());
    if let Some(word) = version.or_else(|| origins.datagram_header.map(|header| header.to_string())) {
        text = format!("{text}; PROXY header {word}");
    }
    if origins.unique_ids == UniqueIds::Made {
        text.push_str(" with a unique id");
    }
    if origins.source == DialSource::Client {
        text.push_str("; transparent");
    }
    if !origins.sources.is_empty() {
        let sources: Vec<String> = origins.sources.iter().map(ToString::to_string).collect();
        text = format!("{text}; dialled from {}", sources.join(", "));
    }
    if origins.local == LocalOrigins::Dialled {
        text.push_str("; local origins");
    }
    text
}

fn described_origin(origin: &Origin) -> String {
    let mut text = origin.to_string();
    if origin.weight != Weight::ONE {
        text = format!("{text} weight {}", origin.weight.get());
    }
    if origin.role == OriginRole::Backup {
        text.push_str(" backup");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        DatagramHeader, DatagramProbe, Ejection, HealthCheck, ProbeTemplate, ProxyVersion, Question,
    };

    #[test]
    fn what_holds_anyway_is_not_said() {
        let mut origins = Origins::from(vec!["203.0.113.10".parse().unwrap()]);
        assert_eq!(described_target(&Target::Origins(origins.clone()), 4), "origins 203.0.113.10");
        origins.list.push(Origin {
            weight: Weight::new(2).unwrap(),
            role: OriginRole::Backup,
            ..origins.list[0].clone()
        });
        origins.balance = Balance::SourceHash;
        origins.health = Some(HealthCheck { port: Some(80), ..HealthCheck::default() });
        origins.ejection = Some(Ejection::default());
        origins.dial_on = DialOn::FirstByte;
        origins.header = Some(ProxyVersion::V2);
        origins.unique_ids = UniqueIds::Made;
        origins.source = DialSource::Client;
        origins.local = LocalOrigins::Dialled;
        assert_eq!(
            described_target(&Target::Origins(origins.clone()), 2),
            "origins 203.0.113.10, 203.0.113.10 weight 2 backup; source-hash; checked every 5s on port 80, timeout 2s, \
             rise 2, fall 3; ejected for 30s after 5 failures; dialled on the first byte; PROXY header v2 with a unique \
             id; transparent; local origins"
        );
        let few = described_target(&Target::Origins(origins), 1);
        assert!(few.starts_with("origins 203.0.113.10 and 1 more; source-hash; "), "{few}");
    }

    #[test]
    fn what_is_for_datagrams_is_said() {
        let mut origins = Origins::from(vec!["203.0.113.10".parse().unwrap()]);
        let question = Question::Template(ProbeTemplate::Dns);
        let probe = HealthProbe::Datagram(Box::new(DatagramProbe { question, header: None }));
        origins.health = Some(HealthCheck { port: Some(53), probe, ..HealthCheck::default() });
        origins.datagram_header = Some(DatagramHeader::V2First);
        origins.sources = vec!["10.0.0.0/28".parse().unwrap()];
        assert_eq!(
            described_target(&Target::Origins(origins), 4),
            "origins 203.0.113.10; checked every 5s on port 53 by dns, timeout 2s, rise 2, fall 3; PROXY header v2-first; \
             dialled from 10.0.0.0/28"
        );
    }
}
