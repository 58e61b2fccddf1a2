//! What the kernel program logs: every packet it drops, when it was loaded to say so. Counting them is done elsewhere,
//! and always.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;

/// The ring buffer that the program logs to.
pub struct DropLog(EbpfLogger<&'static dyn log::Log>);

impl DropLog {
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        match EbpfLogger::init(ebpf) {
            Ok(logger) => Some(Self(logger)),
            Err(error) => {
                tracing::debug!(%error, "read the program's log");
                None
            }
        }
    }

    /// Writes records to this process's log as they come. Never ends.
    pub async fn write_on(mut self) {
        // To wait for the buffer's descriptor takes unsafe code; a debugging aid may be a tenth of a second late.
        let mut turns = tokio::time::interval(Duration::from_millis(100));
        loop {
            turns.tick().await;
            self.0.flush();
        }
    }
}
