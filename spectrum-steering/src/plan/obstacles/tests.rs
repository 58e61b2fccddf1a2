//! Rules as their programs list them, and which are seen as obstacles.

mod hosts;

use super::*;
use crate::plan::tests::plan;

fn obstacles(bindings: &[&str], listing: Listing) -> Vec<String> {
    plan(bindings).obstacles(&[listing]).iter().map(without_cure).collect()
}

fn without_cure(obstacle: &Obstacle) -> String {
    obstacle.to_string().split("; cure: ").next().unwrap().to_owned()
}

fn iptables(rules: &str) -> Vec<String> {
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:ours - [0:0]\n{rules}\nCOMMIT\n");
    obstacles(
        &["tcp 192.0.2.0/24 80,443", "udp 192.0.2.0/24 53", "tcp 2001:db8::/64 80"],
        iptables_listing(Family::Ipv4, text),
    )
}

#[test]
fn a_rule_that_drops_what_is_bound_is_an_obstacle() {
    for rule in [
        "-A INPUT -d 192.0.2.7/32 -p tcp -m tcp --dport 80 -j DROP",
        "-A INPUT -d 192.0.0.0/16 -j REJECT --reject-with icmp-port-unreachable",
        "-A INPUT -s 198.51.100.0/24 -j DROP",
        "-A INPUT -p tcp -m multiport --dports 22,400:500 -j DROP",
        "-A INPUT -m comment --comment \"it is -p icmp\" -j DROP",
        "-A INPUT -j ours\n-A ours -p udp -j DROP",
    ] {
        assert_eq!(iptables(rule).len(), 1, "{rule}: {:?}", iptables(rule));
    }
    assert_eq!(
        iptables("-A INPUT -d 192.0.2.7/32 -p tcp -m tcp --dport 80 -j DROP"),
        [
            "iptables filter INPUT: `-A INPUT -d 192.0.2.7/32 -p tcp -m tcp --dport 80 -j DROP` may drop packets to \
          tcp 192.0.2.0/24 80"
        ]
    );
}

#[test]
fn the_bindings_that_a_rule_hinders_are_named_up_to_a_few() {
    let hindered = |bindings: &[&str]| {
        let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j DROP\nCOMMIT\n".to_owned();
        let found = obstacles(bindings, iptables_listing(Family::Ipv4, text));
        found[0].split_once("may drop packets to ").unwrap().1.to_owned()
    };
    let ports = ["80", "81", "82", "83", "84", "85"].map(|port| format!("tcp 192.0.2.0/24 {port}"));
    let bindings: Vec<&str> = ports.iter().map(String::as_str).collect();
    assert_eq!(hindered(&["udp 192.0.2.0/24 53", bindings[0], bindings[1]]), bindings[..2].join(", "));
    assert_eq!(hindered(&bindings[..5]), bindings[..4].join(", ") + " and one more binding");
    assert_eq!(hindered(&bindings), bindings[..4].join(", ") + " and 2 more bindings");
}

#[test]
fn a_rule_about_other_packets_is_none() {
    for rule in [
        "-A INPUT -d 198.51.100.0/24 -j DROP",
        "-A INPUT -p icmp -j DROP",
        "-A INPUT -p tcp -m tcp --dport 22 -j DROP",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A INPUT -p tcp -m tcp ! --syn -j DROP",
        "-A FORWARD -j DROP",
        "-A ours -j DROP",
        "-A INPUT -d 192.0.2.0/24 -j ACCEPT\n-A INPUT -j DROP",
        "-A INPUT -d 192.0.2.0/24 -j ours\n-A INPUT -j DROP\n-A ours -m comment --comment \"a b\" -j ACCEPT",
    ] {
        assert_eq!(iptables(rule), [""; 0], "{rule}");
    }
}

#[test]
fn a_policy_drops_what_no_rule_accepts() {
    let with_policy = |rules: &str| {
        obstacles(
            &["tcp 192.0.2.0/24 80", "tcp 192.0.2.0/24 443"],
            iptables_listing(Family::Ipv4, format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n")),
        )
    };
    assert_eq!(
        with_policy("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT"),
        [
            "iptables filter INPUT: policy DROP, unless a rule accepts them, may drop packets to tcp 192.0.2.0/24 443"
        ]
    );
    assert_eq!(with_policy("-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT"), [""; 0]);
    assert_eq!(with_policy("-A INPUT -i lo -j ACCEPT").len(), 1);
}

#[test]
fn rules_of_one_family_do_not_concern_the_other() {
    let text = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";
    assert_eq!(obstacles(&["tcp 192.0.2.0/24 80"], iptables_listing(Family::Ipv6, text)), [""; 0]);
    assert_eq!(obstacles(&["tcp 2001:db8::/64 80"], iptables_listing(Family::Ipv6, text)).len(), 1);
}

#[test]
fn rules_of_nftables_are_understood_too() {
    let ruleset = |expr: &str| {
        format!(
            r#"{{"nftables": [{{"metainfo": {{}}}}, {{"table": {{"family": "inet", "name": "fw"}}}},
            {{"chain": {{"family": "inet", "table": "fw", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}}},
            {{"rule": {{"family": "inet", "table": "fw", "chain": "in", "handle": 7, "expr": [{expr}]}}}}]}}"#
        )
    };
    let daddr = |right: &str| {
        format!(
            r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "daddr"}}}}, "right": {right}}}}}, {{"drop": null}}"#
        )
    };
    let dport = |right: &str| {
        format!(
            r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "tcp", "field": "dport"}}}}, "right": {right}}}}}, {{"counter": {{}}}}, {{"reject": {{}}}}"#
        )
    };
    let found = |expr: &str| {
        obstacles(&["tcp 192.0.2.0/24 80", "udp 192.0.2.0/24 53"], Listing::Nftables(ruleset(expr)))
    };
    assert_eq!(
        found(&daddr(r#"{"prefix": {"addr": "192.0.0.0", "len": 16}}"#)),
        [
            "nft inet fw in: `ip daddr 192.0.0.0/16 drop # handle 7` may drop packets to tcp 192.0.2.0/24 80, udp 192.0.2.0/24 53"
        ]
    );
    assert_eq!(found(&daddr(r#""192.0.2.7""#)).len(), 1);
    assert_eq!(found(&daddr(r#"{"set": ["198.51.100.1", "203.0.113.1"]}"#)), [""; 0]);
    assert_eq!(found(&daddr(r#""@blocked""#)).len(), 1);
    assert_eq!(found(&dport(r#"{"set": [22, {"range": [70, 90]}]}"#)).len(), 1);
    assert_eq!(found(&dport("22")), [""; 0]);
    let state =
        r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid"]}}, {"drop": null}"#;
    assert_eq!(found(state), [""; 0]);
}

#[test]
fn a_cure_accepts_what_is_bound_before_the_rule_that_drops_it() {
    let cure = |listing: Listing| {
        plan(&["tcp 192.0.2.0/24 80-90", "udp 192.0.2.7 1-65535"]).obstacles(&[listing])[0].cure.clone()
    };
    let text = "*filter\n:INPUT ACCEPT [0:0]\n:ours - [0:0]\n-A INPUT -j ours\n-A ours -j DROP\nCOMMIT\n";
    assert_eq!(
        cure(iptables_listing(Family::Ipv4, text)),
        "iptables -t filter -I ours -d 192.0.2.0/24 -p tcp --dport 80:90 -j ACCEPT; \
         iptables -t filter -I ours -d 192.0.2.7/32 -p udp -j ACCEPT"
    );
    let legacy = Listing::Iptables {
        program: "iptables-legacy".to_owned(),
        family: Family::Ipv4,
        text: "*filter\n:INPUT DROP [0:0]\nCOMMIT\n".to_owned(),
    };
    assert!(cure(legacy).starts_with("iptables-legacy -t filter -I INPUT -d 192.0.2.0/24"));
    let json = r#"{"nftables": [{"chain": {"family": "inet", "table": "a b", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}]}"#;
    assert_eq!(
        cure(Listing::Nftables(json.to_owned())),
        "nft insert rule inet 'a b' in ip daddr 192.0.2.0/24 tcp dport 80-90 accept; \
         nft insert rule inet 'a b' in ip daddr 192.0.2.7/32 meta l4proto udp accept"
    );
}
