//! The user that a worker process is, and how it becomes that user. Makes no user: packages do.

use std::fmt;
use std::fs;
use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, set_keep_capabilities};
use serde::{Deserialize, Serialize};

use super::capability_sets;

/// The users that a worker process is where nothing else is said: the first that there is.
const USUAL: [&str; 2] = ["spectrum", "nobody"];

/// A reason for which a process cannot become another user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// It could not be done, though it is allowed.
    #[error("{op} {user} for the worker process")]
    Failed {
        /// The operation that failed.
        op: &'static str,
        /// The user.
        user: User,
        /// The system's own error.
        source: io::Error,
    },
    /// Nobody can say who the users are.
    #[error("look up user {name}")]
    Lookup {
        /// The user's name.
        name: String,
        /// The system's own error.
        source: io::Error,
    },
    /// Only who may become anybody may become somebody.
    #[error(
        "become user {user} for the worker process: not permitted (needs CAP_SETUID and CAP_SETGID; try sudo, or have systemd \
         start it as that user, and leave --user out)"
    )]
    NotPermitted {
        /// The user.
        user: User,
    },
    /// There is no such user.
    #[error(
        "become user {name} for the worker process: there is no such user (try: useradd --system --no-create-home \
         --shell /usr/sbin/nologin {name}; or leave --user out)"
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// The user namespace that the process is in has no such user.
    #[error(
        "become user {user} for the worker process: this user namespace has no such user (see /proc/self/uid_map; or give \
         --user root)"
    )]
    Unmapped {
        /// The user.
        user: User,
    },
}

/// A user of the system.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The id of the user's own group.
    pub gid: u32,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.uid, self.gid)
    }
}

/// The user that a worker process is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerUser {
    /// Another one than the steerer.
    Another(User),
    /// The same one.
    Same(SameUser),
}

impl fmt::Display for WorkerUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Another(user) => write!(f, "user {user}"),
            Self::Same(why) => write!(f, "the steerer's user ({why})"),
        }
    }
}

/// The reason for which a worker process is the steerer's own user.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
pub enum SameUser {
    /// `--user` asks for that one.
    #[strum(to_string = "as asked for")]
    Asked,
    /// Without CAP_SETUID and CAP_SETGID it can become nobody else.
    #[strum(to_string = "becoming another takes CAP_SETUID and CAP_SETGID")]
    NotPermitted,
    /// The steerer is not root: whoever started it has chosen its user.
    #[strum(to_string = "who started it chose the user")]
    Started,
    /// The host, or its user namespace, has neither of the usual users.
    #[strum(to_string = "there is no user spectrum, and no nobody")]
    Unknown,
}

/// The facts by which a user is chosen.
struct Facts<'a> {
    uid: u32,
    may_change: bool,
    lookup: &'a dyn Fn(&str) -> Result<Option<User>, UserError>,
    /// True if a user and a group of these ids can be in this user namespace.
    is_mapped: &'a dyn Fn(u32, u32) -> bool,
}

impl WorkerUser {
    /// The user for the worker process of the calling process: the one that is `asked` for, by name or number; else, if this is root,
    /// `spectrum`, or `nobody` where there is no such user; else the one that this is.
    ///
    /// # Errors
    /// [`UserError`]: there is no such user as was asked for, or it is not permitted to become that.
    pub fn choose(asked: Option<&str>) -> Result<Self, UserError> {
        let ids = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let facts = Facts {
            uid: Uid::effective().as_raw(),
            may_change: capability_sets::permitted().is_ok_and(|permitted| permitted.contains(ids)),
            lookup: &lookup,
            is_mapped: &|uid, gid| contains("/proc/self/uid_map", uid) && contains("/proc/self/gid_map", gid),
        };
        chosen(asked, &facts)
    }
}

fn chosen(asked: Option<&str>, facts: &Facts<'_>) -> Result<WorkerUser, UserError> {
    if let Some(name) = asked {
        let user = (facts.lookup)(name)?.ok_or_else(|| UserError::Unknown { name: name.to_owned() })?;
        return if user.uid == facts.uid {
            Ok(WorkerUser::Same(SameUser::Asked))
        } else if !facts.may_change {
            Err(UserError::NotPermitted { user })
        } else if !(facts.is_mapped)(user.uid, user.gid) {
            Err(UserError::Unmapped { user })
        } else {
            Ok(WorkerUser::Another(user))
        };
    }
    if facts.uid != 0 {
        return Ok(WorkerUser::Same(SameUser::Started));
    }
    if !facts.may_change {
        return Ok(WorkerUser::Same(SameUser::NotPermitted));
    }
    for name in USUAL {
        match (facts.lookup)(name)? {
            Some(user) if user.uid != 0 && (facts.is_mapped)(user.uid, user.gid) => {
                return Ok(WorkerUser::Another(user));
            }
            _ => {}
        }
    }
    Ok(WorkerUser::Same(SameUser::Unknown))
}

/// The user of this name, or of this number, which need not have a name.
fn lookup(name: &str) -> Result<Option<User>, UserError> {
    let failed = |errno: nix::Error| UserError::Lookup { name: name.to_owned(), source: errno.into() };
    let known =
        |user: nix::unistd::User| User { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() };
    if let Some(user) = nix::unistd::User::from_name(name).map_err(failed)? {
        return Ok(Some(known(user)));
    }
    // The highest number means that nothing is to be changed.
    let Some(uid) = name.parse().ok().filter(|uid| *uid != u32::MAX) else { return Ok(None) };
    let named = nix::unistd::User::from_uid(Uid::from_raw(uid)).map_err(failed)?.map(known);
    Ok(Some(named.unwrap_or_else(|| User { name: name.to_owned(), uid, gid: uid })))
}

/// True if the map at `path` (user_namespaces(7)) has `id`, or nobody can say.
fn contains(path: &str, id: u32) -> bool {
    fs::read_to_string(path).map_or(true, |map| has(&map, id))
}

fn has(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Becomes `user`, with its group and no other, and with all capabilities that are permitted now, which are then permitted still and
/// not effective.
pub(super) fn become_user(user: &User) -> Result<(), UserError> {
    let failed =
        |op| move |errno: nix::Error| UserError::Failed { op, user: user.clone(), source: errno.into() };
    let keep = |keep| {
        set_keep_capabilities(keep).map_err(|errno| UserError::Failed {
            op: "keep capabilities in becoming",
            user: user.clone(),
            source: errno.into(),
        })
    };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    keep(true)?;
    setgroups(&[gid]).map_err(failed("leave all groups but that of user"))?;
    setresgid(gid, gid, gid).map_err(failed("join the group of user"))?;
    setresuid(uid, uid, uid).map_err(failed("become user"))?;
    keep(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Option<User> {
        let uid = match name {
            "root" => 0,
            "spectrum" => 990,
            "www" => 33,
            "nobody" => 65_534,
            _ => return None,
        };
        Some(User { name: name.to_owned(), uid, gid: uid })
    }

    fn choose(
        asked: Option<&str>,
        uid: u32,
        may_change: bool,
        absent: &[&str],
    ) -> Result<WorkerUser, UserError> {
        let lookup = |name: &str| Ok(user(name).filter(|user| !absent.contains(&user.name.as_str())));
        let is_mapped = |uid, _gid| uid < 65_535;
        chosen(asked, &Facts { uid, may_change, lookup: &lookup, is_mapped: &is_mapped })
    }

    fn another(name: &str) -> WorkerUser {
        WorkerUser::Another(user(name).unwrap())
    }

    #[test]
    fn root_becomes_somebody_and_others_stay_who_they_are() {
        assert_eq!(choose(None, 0, true, &[]).unwrap(), another("spectrum"));
        assert_eq!(choose(None, 0, true, &["spectrum"]).unwrap(), another("nobody"));
        let same = |uid, may, absent: &[&str]| match choose(None, uid, may, absent).unwrap() {
            WorkerUser::Same(reason) => reason,
            WorkerUser::Another(user) => panic!("{user}"),
        };
        assert_eq!(same(0, true, &["spectrum", "nobody"]), SameUser::Unknown);
        assert_eq!(same(0, false, &[]), SameUser::NotPermitted);
        assert_eq!(same(990, false, &[]), SameUser::Started);
        assert_eq!(same(990, true, &[]), SameUser::Started);
    }

    #[test]
    fn who_is_asked_for_it_becomes_or_says_what_is_missing() {
        assert_eq!(choose(Some("www"), 0, true, &[]).unwrap(), another("www"));
        assert_eq!(choose(Some("root"), 0, true, &[]).unwrap(), WorkerUser::Same(SameUser::Asked));
        assert_eq!(choose(Some("www"), 33, false, &[]).unwrap(), WorkerUser::Same(SameUser::Asked));
        let refusal = |asked, uid, may| choose(Some(asked), uid, may, &[]).unwrap_err().to_string();
        for (told, cure) in [
            (refusal("spectre", 0, true), "there is no such user (try: useradd --system"),
            (refusal("www", 0, false), "www (33:33) for the worker process: not permitted (needs CAP_SETUID"),
            (refusal("www", 990, false), "have systemd start it as that user"),
        ] {
            assert!(told.contains(cure), "{told}");
        }
    }

    #[test]
    fn a_user_namespace_without_the_user_keeps_its_own() {
        let lookup = |name: &str| Ok(user(name));
        let facts =
            Facts { uid: 0, may_change: true, lookup: &lookup, is_mapped: &|uid, gid| uid == 0 && gid == 0 };
        assert_eq!(chosen(None, &facts).unwrap(), WorkerUser::Same(SameUser::Unknown));
        assert!(chosen(Some("www"), &facts).unwrap_err().to_string().contains("has no such user"));
        let whole = "         0          0 4294967295\n";
        assert!(has(whole, 65_534));
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(has(rootless, 65_534) && has(rootless, 65_536) && !has(rootless, 65_537));
        assert!(!has("", 0) && !has("what is this", 0));
    }

    #[test]
    fn numbers_are_users_too() {
        assert_eq!(lookup("0").unwrap().unwrap().name, "root");
        let nameless = lookup("4123456").unwrap().unwrap();
        assert_eq!((nameless.uid, nameless.gid), (4_123_456, 4_123_456));
        assert!(lookup("4294967295").unwrap().is_none());
        assert!(lookup("no such user").unwrap().is_none());
    }
}
