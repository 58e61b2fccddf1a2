//! What is written as other products have it.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "origins as other products write them",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "1000-2000" }]
origins = ["10.8.0.2:+1000", "tcp://10.8.0.2:22", "http://a.example", "unix:/run/app.sock", "bücher.example:80", "10.8.0.2:$server_port"]
"#,
        problems: &[
            r#"4:12: service "a" origins[0]: "10.8.0.2:+1000": an offset is written as the range of ports that it leads to, as long as the one that is bound; write 10.8.0.2:2000-3000"#,
            r#"4:30: service "a" origins[1]: "tcp://10.8.0.2:22": origins are dialled by TCP anyway; write 10.8.0.2:22"#,
            r#"4:51: service "a" origins[2]: "http://a.example": connections are passed on as they are, whatever is spoken over them; write a.example:80"#,
            r#"4:71: service "a" origins[3]: "unix:/run/app.sock": origins are dialled by TCP, not by a path; have the server listen on 127.0.0.1 as well and name that, or put before it: socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork UNIX-CONNECT:/run/app.sock"#,
            r#"4:93: service "a" origins[4]: "bücher.example:80": a name is written as DNS has it; write xn--bcher-kva.example:80"#,
            r#"4:114: service "a" origins[5]: "10.8.0.2:$server_port": the dialled port is kept without any; write 10.8.0.2"#,
        ],
    },
    Bad {
        title: "an offset from one of several ranges",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "80,443" }]
origins = { origin = "a.example:+8000" }
"#,
        problems: &[
            r#"4:22: service "a" origins.origin: "a.example:+8000": an offset is written as the range of ports that it leads to, as long as the one that is bound, for ports 1000-2000 a.example:9000-10000"#,
        ],
    },
    Bad {
        title: "bindings as other products write them",
        text: r#"[[service]]
name = "a"
bindings = [
  { prefix = "192.0.2.0/24", ports = 0 },
  { prefix = "*", ports = 80 },
  { prefix = "0.0.0.0:80" },
  { prefix = "192.0.2.0/255.255.255.0", ports = "80:90" },
  { prefix = "192.0.2.7", protocol = "tcp/22" },
  { prefix = "192.0.2.7", protocol = "any" },
  { address = "192.0.2.7" },
]
respond = "hello"
"#,
        problems: &[
            r#"4:38: service "a" bindings[0].ports: 0: for every port leave ports out, or write 1-65535"#,
            r#"5:14: service "a" bindings[1].prefix: "*": every address is 0.0.0.0/0 for IPv4 and ::/0 for IPv6, of which a binding takes those that the host has"#,
            r#"6:14: service "a" bindings[2].prefix: "0.0.0.0:80": every address is 0.0.0.0/0 for IPv4 and ::/0 for IPv6, of which a binding takes those that the host has, and ports = "80""#,
            r#"7:14: service "a" bindings[3].prefix: "192.0.2.0/255.255.255.0": a netmask is written as its length: 192.0.2.0/24"#,
            r#"7:49: service "a" bindings[3].ports: "80:90": a range is written 80-90"#,
            r#"8:38: service "a" bindings[4].protocol: "tcp/22": expected tcp, udp or both; ports have a key of their own: protocol = "tcp", ports = "22""#,
            r#"9:38: service "a" bindings[5].protocol: "any": expected tcp, udp or both; write "both""#,
            r#"10:5: service "a" bindings[6].address: unknown key; say it in prefix, as in prefix = "192.0.2.0/24""#,
        ],
    },
    Bad {
        title: "words of HAProxy and nginx",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [{ origin = "10.8.0.2", maxconn = 100, max_fails = 3, check = true }]
balance = "leastconn"
proxy-header = 2
source = "10.8.0.1"
allow = ["10.0.0.0/8"]
maxconn = 10
limits = { download-rate = "100k" }
"#,
        problems: &[
            r#"4:35: service "a" origins[0].maxconn: unknown key; an origin has no limit of its own; limits = { connections = 100 } of the service bounds all of its connections"#,
            r#"4:50: service "a" origins[0].max_fails: unknown key; ejection of the service does that for each origin, as in ejection = { failures = 3, time = "10s" }"#,
            r#"4:65: service "a" origins[0].check: unknown key; health of the service checks its origins, as in health = { interval = "5s", rise = 2, fall = 3 }"#,
            r#"5:11: service "a" balance: "leastconn": expected round-robin, least-connections or source-hash; write "least-connections""#,
            r#"6:16: service "a" proxy-header: 2: expected "v1" or "v2", found an integer; write "v2""#,
            r#"7:1: service "a" source: unknown key; origins see the address that the host's routes choose, which a route can name, as in ip route replace 10.8.0.0/24 dev eth1 src 10.8.0.1; transparent = true dials from the client's own"#,
            r#"8:1: service "a" allow: unknown key; clients are kept out by the host's firewall, whose input chain sees the address and port that they dialled, as in nft add rule inet filter input ip saddr 203.0.113.0/24 ip daddr 192.0.2.0/24 drop; limits bound what one source may take"#,
            r#"9:1: service "a" maxconn: unknown key; say it in limits, as in limits = { connections = 10000 }"#,
            r#"10:12: service "a" limits.download-rate: unknown key; bytes are not limited here, but by a queue of the kernel (tc qdisc) or by the origin; rate-per-source of limits bounds new connections"#,
        ],
    },
    Bad {
        title: "keys of other products in place of ours, told once",
        text: r#"[[service]]
label = "a"
listen = "*:80"
upstream = "10.8.0.2"
"#,
        problems: &[
            r#"2:1: service[0] label: unknown key; a service has a name, as in name = "games""#,
            r#"3:1: service[0] listen: unknown key; say it in bindings, as in bindings = [{ prefix = "192.0.2.0/24", ports = 80 }]"#,
            r#"4:1: service[0] upstream: unknown key; name the servers in origins, as in origins = ["203.0.113.10:80"]"#,
        ],
    },
    Bad {
        title: "times without a unit",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = 80 }]
origins = "10.8.0.2:80"
health = { interval = 2000, timeout = 5 }
timeouts = { idle = 50000, connect = "5000" }
"#,
        problems: &[
            r#"5:23: service "a" health.interval: 2000: expected a time with its unit, such as "5s", found an integer: "2s" if milliseconds are meant, "33m 20s" if seconds are meant"#,
            r#"5:39: service "a" health.timeout: 5: expected a time with its unit, such as "5s", found an integer: "5s" if seconds are meant"#,
            r#"6:21: service "a" timeouts.idle: 50000: expected a time with its unit, such as "5s", found an integer: "50s" if milliseconds are meant, "13h 53m 20s" if seconds are meant"#,
            r#"6:38: service "a" timeouts.connect: "5000": not a time; write it as in "5s", "1m 30s" or "250ms": "5s" if milliseconds are meant, "1h 23m 20s" if seconds are meant"#,
        ],
    },
];
