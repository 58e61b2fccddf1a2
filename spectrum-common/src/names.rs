//! Names that both sides of the kernel boundary use: typed once, here. At most 15 characters, the kernel's limit for
//! the names of maps and programs.

/// The sk_lookup program, and what `bpftool prog show` calls it.
pub const PROGRAM: &str = "spectrum";
/// The XDP program, which is loaded where one is asked for.
pub const XDP_PROGRAM: &str = "spectrum_xdp";
/// Array of maps: the steering table of the current generation; in one of the two slots behind it, which take turns, the same once
/// more where it has source policies; and [`RUN_TIME_SLOTS`] behind that one the lists of what was said at run time.
pub const TABLES: &str = "TABLES";
/// The slots of [`TABLES`].
pub const TABLE_SLOTS: usize = 5;
/// So far behind the slot of a generation is that of its lists of what was said at run time.
pub const RUN_TIME_SLOTS: u32 = 2;
/// Sockmap: the listener of each destination, and behind these the registered sockets.
pub const LISTENERS: &str = "LISTENERS";
/// Array of maps: the slots of each destination that has several registered sockets.
pub const SHARES: &str = "SHARES";
/// Array of maps: where the clients of each such destination went lately.
pub const MEMORIES: &str = "MEMORIES";
/// Per-CPU array: the packets given to each registered socket, by its place among these.
pub const STEERED: &str = "STEERED";
/// Read-only global, a `u32`: the place of the first registered socket in [`LISTENERS`].
pub const FIRST_REGISTERED: &str = "FIRST_REGISTERED";
/// Sockmap: for each domain, by its number, a listener that never answers.
pub const SILENT: &str = "SILENT";
/// Per-CPU array: what became of each destination's packets.
pub const COUNTERS: &str = "COUNTERS";
/// Per-CPU array of one number: packets that the XDP program dropped.
pub const EARLY: &str = "EARLY";
/// Ring buffer: samples of packets that were turned away.
pub const DENIALS: &str = "DENIALS";
/// The bytes of [`DENIALS`].
pub const DENIALS_BYTES: usize = 256 << 10;
/// Array of one map: the accounts of sources, where a rate is configured.
pub const ACCOUNTS: &str = "ACCOUNTS";
/// Read-only global, two `u64`: what makes hashes that strangers cannot foresee.
pub const SECRET: &str = "SECRET";
/// Read-only global, a `u8`: 1 says that the kernel tells by which interface a packet came (Linux 5.17).
pub const HAS_INTERFACE: &str = "HAS_INTERFACE";
/// Read-only global, a `u8`: 1 makes the program log every packet it drops.
pub const LOG_DROPS: &str = "LOG_DROPS";
/// Read-only global, a `u32`: the version of all that is in this crate.
pub const ABI: &str = "ABI";

/// Changes whenever a loader and a program of different versions would misunderstand each other.
pub const ABI_VERSION: u32 = 7;

/// The number of destinations that the maps hold unless the loader asks for more.
pub const DEFAULT_DESTINATIONS: usize = 4096;

/// The highest number of destinations.
pub const MOST_DESTINATIONS: usize = 65_536;

/// The registered sockets that [`LISTENERS`] has room for, behind the destinations' own listeners.
pub const REGISTERED_SOCKETS: usize = 4096;
