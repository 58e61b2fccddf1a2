//! What the firewall's programs made of our rules, those of TPROXY and the reply mark. Tries none itself.

use super::findings::Findings;
use super::host_facts::{Carrier, FirewallTrial, HostFacts};
use crate::model::Family;

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    steering(facts, findings);
    reply_mark(facts, findings);
}

fn steering(facts: &HostFacts, findings: &mut Findings) {
    let Some(trials) = findings.known("firewall", &facts.firewalls) else { return };
    for trial in trials {
        let check = format!("{} {}", trial.program, trial.family);
        match &trial.outcome {
            Ok(()) => findings.ok(check, "takes our rules", meaning(trial.carrier)),
            // The other variant of iptables, and a family that is not there, would not be asked.
            Err(refusal) if trial.carrier == Carrier::None => {
                findings.ok(check, refusal.to_string(), "of no matter: no start would use it");
            }
            Err(refusal) if !facts.families().set().contains(&trial.family) => {
                findings.ok(
                    check,
                    refusal.to_string(),
                    "of no matter: nothing is to be served of this family",
                );
            }
            Err(refusal) => {
                let cure = if refusal.is_of_rights() {
                    "run it as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
                } else {
                    missing(trial)
                };
                findings.miss(check, refusal.to_string(), useless(trial.carrier), cure);
            }
        }
    }
}

/// The mark that transparent origins on other hosts take, whatever steers.
fn reply_mark(facts: &HostFacts, findings: &mut Findings) {
    let check = "reply mark";
    let Some(outcome) = findings.known(check, &facts.reply_mark) else { return };
    let Err(refusal) = outcome else {
        findings.ok(check, "nft sets it", "transparent = true works with origins on other hosts");
        return;
    };
    let cure = if refusal.is_of_rights() {
        "run it as root, or with CAP_NET_ADMIN"
    } else {
        "apt install nftables; modprobe -a nft_socket nft_fib_inet # CONFIG_NFT_SOCKET, CONFIG_NFT_FIB_INET"
    };
    match &facts.replies {
        Some(needs) if needs.mark() => findings.miss(
            check,
            refusal.to_string(),
            "a start fails: transparent = true with origins on other hosts takes it",
            cure,
        ),
        Some(_) => findings.ok(
            check,
            refusal.to_string(),
            "of no matter: no service has transparent = true and origins on other hosts",
        ),
        None => findings.warn(
            check,
            refusal.to_string(),
            "transparent = true works with origins on this host only",
            cure,
        ),
    }
}

fn meaning(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Iptables => "TPROXY works by iptables",
        Carrier::Nftables => "TPROXY works by nftables",
        Carrier::None => "the other variant: no start would use it, and leftovers are looked for in it",
    }
}

fn useless(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Iptables | Carrier::None => "TPROXY does not work by iptables",
        Carrier::Nftables => "TPROXY does not work by nftables",
    }
}

fn missing(trial: &FirewallTrial) -> &'static str {
    match (trial.carrier, trial.family) {
        (Carrier::Nftables, _) => "apt install nftables; modprobe nft_tproxy # CONFIG_NFT_TPROXY",
        (_, Family::Ipv4) => "apt install iptables; modprobe -a iptable_mangle xt_TPROXY xt_socket",
        (_, Family::Ipv6) => "apt install iptables; modprobe -a ip6table_mangle xt_TPROXY xt_socket",
    }
}
