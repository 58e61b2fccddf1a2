//! What container engines, kube-proxy and firewalld do to a host that publishes port 8080, or forwards it: rule sets of the
//! shape that they make, and what is found in them. The JSON is what nft 1.0.6 lists of the text beside it.

use super::*;
use crate::plan::tests::plan;

const BINDINGS: &[&str] = &["tcp 192.0.2.0/24 1-65535", "udp 192.0.2.0/24 53", "tcp 2001:db8::/64 8000-9000"];

fn rules(text: &str) -> Listing {
    iptables_listing(Family::Ipv4, text)
}

fn found(listing: Listing) -> Vec<(Effect, String, String)> {
    let said = |obstacle: Obstacle| (obstacle.effect, obstacle.chain, obstacle.hindered.to_string());
    plan(BINDINGS).obstacles(&[listing]).into_iter().map(said).collect()
}

fn taking(effect: Effect, chain: &str) -> (Effect, String, String) {
    (effect, chain.to_owned(), "tcp 192.0.2.0/24 1-65535".to_owned())
}

#[test]
fn a_port_that_a_container_publishes_takes_connections() {
    for (listing, expected) in [
        (rules(include_str!("docker.rules")), vec![taking(Effect::MayTake, "iptables nat DOCKER")]),
        (
            rules(include_str!("netavark.rules")),
            vec![taking(Effect::Takes, "iptables nat NETAVARK-DN-5A2B1C0D9E8F7")],
        ),
        (
            rules(include_str!("cni.rules")),
            vec![taking(Effect::Takes, "iptables nat CNI-DN-3f1a2b3c4d5e6f7a8b9c0")],
        ),
        (
            rules(include_str!("kube-proxy.rules")),
            vec![
                taking(Effect::Takes, "iptables nat KUBE-SEP-BBBBBBBBBBBBBBBB"),
                taking(Effect::Takes, "iptables nat KUBE-SEP-CCCCCCCCCCCCCCCC"),
            ],
        ),
        (
            Listing::Nftables(include_str!("docker.json").to_owned()),
            vec![taking(Effect::MayTake, "nft ip docker-bridges nat-prerouting-and-output")],
        ),
        (
            Listing::Nftables(include_str!("netavark.json").to_owned()),
            vec![taking(Effect::Takes, "nft inet netavark nv_0123_10_88_0_0_nm16_dnat")],
        ),
        (
            Listing::Nftables(include_str!("kube-proxy.json").to_owned()),
            vec![taking(Effect::Takes, "nft ip kube-proxy endpoint-BBBB-default/web/tcp/")],
        ),
    ] {
        assert_eq!(found(listing), expected);
    }
}

#[test]
fn what_is_bound_beside_a_published_port_is_left_alone() {
    for listing in [
        rules(include_str!("docker.rules")),
        rules(include_str!("kube-proxy.rules")),
        Listing::Nftables(include_str!("docker.json").to_owned()),
        Listing::Nftables(include_str!("netavark.json").to_owned()),
        Listing::Nftables(include_str!("kube-proxy.json").to_owned()),
    ] {
        let plan = plan(&["tcp 192.0.2.0/24 8081-65535", "udp 192.0.2.0/24 8080", "tcp 2001:db8::/64 8080"]);
        let found: Vec<String> =
            plan.obstacles(std::slice::from_ref(&listing)).iter().map(ToString::to_string).collect();
        // A table of both families may give one of them another destination.
        assert_eq!(found, [""; 0], "{listing:?}");
        assert!(plan.exemption(&[listing]).is_empty());
    }
}

#[test]
fn a_rule_is_named_with_the_jump_that_says_which_port() {
    let named = |listing| plan(BINDINGS).obstacles(&[listing])[0].rule.clone();
    assert_eq!(
        named(rules(include_str!("kube-proxy.rules"))),
        "`-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m comment --comment \"default/web\" -m tcp -j DNAT --to-destination \
         10.244.0.5:80`, by way of `-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web\" -m tcp --dport 8080 \
         -j KUBE-EXT-AAAAAAAAAAAAAAAA`,"
    );
    assert_eq!(
        named(Listing::Nftables(include_str!("kube-proxy.json").to_owned())),
        "`meta l4proto tcp dnat to 10.244.0.5:80 # handle 19`, by way of `fib daddr type local ip daddr != 127.0.0.0/8 \
         meta l4proto . th dport vmap @service-nodeports # handle 13`,"
    );
    assert_eq!(
        named(Listing::Nftables(include_str!("docker.json").to_owned())),
        "`iifname != docker0 tcp dport 8080 counter dnat to 172.17.0.2:80 comment DNAT # handle 8`"
    );
}

#[test]
fn firewalld_forwards_one_port_and_rejects_what_no_zone_lets_in() {
    let found = found(Listing::Nftables(include_str!("firewalld.json").to_owned()));
    let chains: Vec<(Effect, &str)> =
        found.iter().map(|(effect, chain, _)| (*effect, chain.as_str())).collect();
    assert!(chains.contains(&(Effect::Takes, "nft inet firewalld nat_PRE_public_allow")), "{found:?}");
    assert!(chains.contains(&(Effect::Drops, "nft inet firewalld filter_IN_public")), "{found:?}");
}

#[test]
fn a_cure_or_an_instance_exempts_from_every_chain_of_nat() {
    let nat = |table: &str| {
        let keep = r#"{"dnat": {"family": "ip", "addr": {"payload": {"protocol": "ip", "field": "daddr"}}}}"#;
        let daddr = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}}"#;
        let chain = |hook: &str| {
            format!(
                r#"{{"chain": {{"family": "inet", "table": "{table}", "name": "{hook}", "type": "nat", "hook": "{hook}", "prio": -199, "policy": "accept"}}}},
                {{"rule": {{"family": "inet", "table": "{table}", "chain": "{hook}", "handle": 4, "expr": [{daddr}, {{"match": {{"op": "==", "left": {{"meta": {{"key": "l4proto"}}}}, "right": "tcp"}}}}, {keep}]}}}}"#
            )
        };
        Listing::Nftables(format!(r#"{{"nftables": [{}, {}]}}"#, chain("prerouting"), chain("output")))
    };
    let docker = || rules(include_str!("docker.rules"));
    let effects = |listings: &[Listing]| -> Vec<Effect> {
        plan(BINDINGS).obstacles(listings).into_iter().map(|obstacle| obstacle.effect).collect()
    };
    assert_eq!(effects(&[docker()]), [Effect::MayTake]);
    assert_eq!(effects(&[docker(), nat("exempt")]), []);
    assert_eq!(effects(&[docker(), nat("spectrum-nat-4711")]), [Effect::Exempted]);
    // What an instance exempts is not what keeps it from looking after that.
    assert!(!plan(BINDINGS).exemption(&[docker(), nat("spectrum-nat-4711")]).is_empty());
    assert!(plan(BINDINGS).exemption(&[docker(), nat("exempt")]).is_empty());
    // A rule that an administrator wrote for just that port.
    let returning = include_str!("docker.rules").replace(
        "-A PREROUTING -m addrtype",
        "-A PREROUTING -d 192.0.2.0/24 -p tcp -m tcp --dport 8080 -j RETURN\n-A PREROUTING -m addrtype",
    );
    assert_eq!(effects(&[rules(&returning)]), [Effect::MayTakeOwn]);
    let untracked = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -d 192.0.2.0/24 -j CT --notrack\n\
                     -A OUTPUT -s 192.0.2.0/24 -j CT --notrack\nCOMMIT\n";
    assert_eq!(effects(&[rules(&(untracked.to_owned() + include_str!("cni.rules")))]), [Effect::MayTakeOwn]);
}

#[test]
fn netmap_onto_itself_changes_nothing() {
    let netmap = |to: &str| {
        rules(&format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 192.0.2.0/24 -j NETMAP --to {to}\n\
             -A PREROUTING -p tcp -j REDIRECT --to-ports 80\nCOMMIT\n"
        ))
    };
    assert_eq!(found(netmap("192.0.2.0/24")), []);
    assert_eq!(found(netmap("10.0.0.0/24"))[0].0, Effect::Takes);
}

#[test]
fn a_table_that_iptables_cannot_show_is_read_of_nft() {
    let json = include_str!("docker.json").replace("docker-bridges", "nat");
    let iptables =
        || rules("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n# Table `nat' is incompatible, use 'nft' tool.\n");
    let obstacles = plan(BINDINGS).obstacles(&[iptables(), Listing::Nftables(json.clone())]);
    assert_eq!(obstacles.len(), 1);
    // Otherwise once is enough.
    let shown = rules("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n");
    assert_eq!(plan(BINDINGS).obstacles(&[shown, Listing::Nftables(json)]), []);
}

#[test]
fn many_bindings_among_many_rules_are_looked_at_by_prefix() {
    let bindings: Vec<String> =
        (0..3_000).map(|at| format!("tcp 10.0.{}.{} 8000-9000", at / 256, at % 256)).collect();
    let bindings: Vec<&str> = bindings.iter().map(String::as_str).collect();
    let published: Vec<String> = (0..8_000)
        .map(|at| {
            format!("-A DOCKER -p tcp -m tcp --dport {} -j DNAT --to-destination 172.17.0.2:80", 10_000 + at)
        })
        .collect();
    let text = include_str!("docker.rules").replacen("COMMIT", &(published.join("\n") + "\nCOMMIT"), 1);
    let obstacles = plan(&bindings).obstacles(&[rules(&text)]);
    assert_eq!(obstacles.len(), 1);
    assert!(obstacles[0].rule.contains("8080"));
    assert!(obstacles[0].cure.len() < 4_000, "{}", obstacles[0].cure);
}
