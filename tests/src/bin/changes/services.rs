//! The services, and what may change of them without anybody's noticing: what is dialled stays bound, and says what it said.
//! Reloads nothing.

use std::net::SocketAddr;

use spectrum_tests::random::Random;

/// The port that each service is dialled at, whatever it binds besides.
pub(crate) const ANSWER: u16 = 80;
pub(crate) const RELAY: u16 = 2000;
pub(crate) const SESSIONS: u16 = 3000;

/// The services of one configuration.
#[derive(Debug)]
pub(crate) struct Services {
    prefix: &'static str,
    echoes: [SocketAddr; 2],
    tellers: [SocketAddr; 2],
    revision: u64,
    /// The name of the one that answers by itself, of which nothing is open for long.
    is_renamed: bool,
    /// Binds more ports.
    is_wide: bool,
    has_more: bool,
    /// The words for what was changed last.
    pub(crate) last_change: &'static str,
}

impl Services {
    pub(crate) fn first(prefix: &'static str, echoes: [SocketAddr; 2], tellers: [SocketAddr; 2]) -> Self {
        Self {
            prefix,
            echoes,
            tellers,
            revision: 0,
            is_renamed: false,
            is_wide: false,
            has_more: false,
            last_change: "nothing",
        }
    }

    /// Changes every service in some way.
    pub(crate) fn change(&mut self, random: &mut Random) {
        self.revision += 1;
        self.last_change = match random.below::<u32>(4) {
            0 => "what answers, behind the same bindings",
            1 => {
                self.is_renamed = !self.is_renamed;
                "the name of a service"
            }
            2 => {
                self.is_wide = !self.is_wide;
                "the bindings of every service"
            }
            _ => {
                self.has_more = !self.has_more;
                "the number of services, some of which hide others"
            }
        };
    }

    /// They, as a configuration file.
    pub(crate) fn text(&self) -> String {
        let Self { prefix, revision, .. } = self;
        let times = format!("timeouts = {{ idle = \"{}s\" }}", 600 + revision);
        let ports = |port: u16| {
            if self.is_wide { format!("{}-{}", port - 10, port + 10) } else { port.to_string() }
        };
        let order = |[one, other]: [SocketAddr; 2]| {
            if revision % 2 == 0 {
                format!("\"{one}\", \"{other}\"")
            } else {
                format!("\"{other}\", \"{one}\"")
            }
        };
        let name = if self.is_renamed { "other" } else { "web" };
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\nrespond = \"hello\"\n{times}\n\
             bindings = [{{ prefix = \"{prefix}\", ports = \"{}\" }}]\n\
             [[service]]\nname = \"relay\"\norigins = [{}]\n{times}\n\
             bindings = [{{ prefix = \"{prefix}\", ports = \"{}\" }}]\n\
             [[service]]\nname = \"sessions\"\norigins = [{}]\nudp = {{ sessions = {} }}\n\
             bindings = [{{ protocol = \"udp\", prefix = \"{prefix}\", ports = \"{}\" }}]\n",
            ports(ANSWER),
            order(self.echoes),
            ports(RELAY),
            order(self.tellers),
            100_000 + revision,
            ports(SESSIONS),
        );
        if self.has_more {
            let hidden = self.hidden();
            let more = format!(
                "[[service]]\nname = \"more\"\nrespond = \"hello\"\n{times}\n\
                 bindings = [{{ prefix = \"{prefix}\", ports = \"5000-6000\" }}]\n\
                 [[service]]\nname = \"instead\"\nrespond = \"hello\"\n{times}\n\
                 bindings = [{{ prefix = \"{hidden}\", ports = \"{ANSWER}\" }}]\n",
            );
            text.push_str(&more);
        }
        text
    }

    /// The half of the prefix that has what is dialled in it.
    fn hidden(&self) -> &'static str {
        if self.prefix.contains(':') { "2001:db8::/65" } else { "192.0.2.0/25" }
    }
}
