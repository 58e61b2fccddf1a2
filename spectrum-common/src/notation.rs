//! Other products' notations for ports and prefixes, and what to write instead. Asked only about what has been refused.

use std::net::{IpAddr, Ipv4Addr};

use super::{PortRange, Prefix};

/// The right notation of the ports `typed`.
pub(super) fn ports(typed: &str) -> Option<String> {
    let typed = typed.trim();
    if ["0", "0-65535", "*", "all", "any"].contains(&typed) {
        return Some("for every port leave ports out, or write 1-65535".to_owned());
    }
    if let Some(last) = typed.strip_prefix("0-") {
        let range: PortRange = format!("1-{last}").parse().ok()?;
        return Some(format!("no packet has port 0; write {range}"));
    }
    let separator = [":", "..", "–", " "].into_iter().find(|separator| typed.contains(separator))?;
    let (first, last) = typed.split_once(separator)?;
    let range: PortRange = format!("{}-{}", first.trim(), last.trim()).parse().ok()?;
    Some(format!("a range is written {range}"))
}

const EVERYWHERE: &str =
    "every address is 0.0.0.0/0 for IPv4 and ::/0 for IPv6, of which a binding takes those that the host has";

/// The right notation of the prefix `typed`.
pub(super) fn prefix(typed: &str) -> Option<String> {
    let typed = typed.trim();
    if ["", "*", "all", "any", "0.0.0.0", "::", "[::]"].contains(&typed) {
        return Some(EVERYWHERE.to_owned());
    }
    if let Some((address, mask)) = typed.split_once('/')
        && let Ok(mask) = mask.parse::<Ipv4Addr>()
    {
        let length = mask.to_bits().leading_ones();
        let prefix: Prefix = format!("{address}/{length}").parse().ok()?;
        return (mask.to_bits().count_ones() == length)
            .then(|| format!("a netmask is written as its length: {prefix}"));
    }
    if let Some((address, port)) = typed.rsplit_once(':')
        && port.parse::<PortRange>().is_ok()
        && (address.starts_with('[') || !address.contains(':'))
    {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if let Some(everywhere) = prefix(address) {
            return Some(format!("{everywhere}, and ports = {port:?}"));
        }
        let address: IpAddr = address.parse().ok()?;
        return Some(format!("ports have a key of their own; write {address}, and ports = {port:?}"));
    }
    let bare = typed.replace(['[', ']'], "");
    if bare != typed && bare.parse::<Prefix>().is_ok() {
        return Some(format!("without brackets: {bare}"));
    }
    let ends =
        typed.split_once('-').map(|(first, last)| [first, last].map(|end| end.trim().parse::<IpAddr>()));
    matches!(ends, Some([Ok(_), Ok(_)]))
        .then(|| "a range of addresses is written as the prefixes that it has".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_ports_are_told_what_to_write() {
        for (typed, cure) in [
            ("0", "for every port leave ports out, or write 1-65535"),
            ("*", "for every port leave ports out, or write 1-65535"),
            ("0-1023", "no packet has port 0; write 1-1023"),
            ("80:90", "a range is written 80-90"),
            ("80..90", "a range is written 80-90"),
        ] {
            assert_eq!(ports(typed).as_deref(), Some(cure), "{typed}");
        }
        assert_eq!(ports("http"), None);
    }

    #[test]
    fn notations_of_prefixes_are_told_what_to_write() {
        for (typed, cure) in [
            ("*", EVERYWHERE.to_owned()),
            ("0.0.0.0", EVERYWHERE.to_owned()),
            ("*:80", format!("{EVERYWHERE}, and ports = \"80\"")),
            ("[::]:80", format!("{EVERYWHERE}, and ports = \"80\"")),
            ("192.0.2.0/255.255.255.0", "a netmask is written as its length: 192.0.2.0/24".to_owned()),
            (
                "192.0.2.7:80-90",
                "ports have a key of their own; write 192.0.2.7, and ports = \"80-90\"".to_owned(),
            ),
            (
                "[2001:db8::1]:80",
                "ports have a key of their own; write 2001:db8::1, and ports = \"80\"".to_owned(),
            ),
            ("[2001:db8::]/64", "without brackets: 2001:db8::/64".to_owned()),
            ("192.0.2.0-192.0.2.9", "a range of addresses is written as the prefixes that it has".to_owned()),
        ] {
            assert_eq!(prefix(typed).as_deref(), Some(cure.as_str()), "{typed}");
            assert!(typed.parse::<Prefix>().unwrap_err().to_string().ends_with(&cure), "{typed}");
        }
        assert_eq!(prefix("a.example"), None);
        assert_eq!(prefix("192.0.2.0/255.0.255.0"), None);
    }
}
