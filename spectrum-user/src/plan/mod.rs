//! What the kernel must contain for a configuration: pure values and texts. Applies nothing.

pub mod firewall;
