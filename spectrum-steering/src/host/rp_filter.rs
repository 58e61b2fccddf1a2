//! Reverse path filtering, which drops IPv4 packets before any listener is looked for. Changes no setting.

use std::fs;
use std::path::Path;

/// The interfaces that drop a packet whose sender is reached through another interface (`rp_filter` 1, RFC 3704 strict
/// mode), sorted. Settings that cannot be read count as off.
#[must_use]
pub fn strict_rp_filter() -> Vec<String> {
    strict(Path::new("/proc/sys/net/ipv4/conf"))
}

fn strict(settings: &Path) -> Vec<String> {
    let level = |interface: &str| {
        let text = fs::read_to_string(settings.join(interface).join("rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    // The kernel takes the greater of the two (ip-sysctl.rst); 2 is the loose mode.
    let all = level("all");
    let mut interfaces: Vec<String> = fs::read_dir(settings)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !["all", "default", "lo"].contains(&name.as_str()) && level(name).max(all) == 1)
        .collect();
    interfaces.sort();
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_of_both_settings_counts() {
        let settings = std::env::temp_dir().join(format!("spectrum-rp-filter-{}", std::process::id()));
        let set = |interface: &str, level: &str| {
            fs::create_dir_all(settings.join(interface)).unwrap();
            fs::write(settings.join(interface).join("rp_filter"), format!("{level}\n")).unwrap();
        };
        for (interface, level) in
            [("all", "0"), ("default", "1"), ("eth0", "1"), ("eth1", "0"), ("eth2", "2")]
        {
            set(interface, level);
        }
        assert_eq!(strict(&settings), ["eth0"]);
        set("all", "1");
        assert_eq!(strict(&settings), ["eth0", "eth1"]);
        set("all", "2");
        assert_eq!(strict(&settings), [""; 0]);
        fs::remove_dir_all(&settings).unwrap();
    }
}
