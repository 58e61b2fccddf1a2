//! What the privileged tests share. Holds no test itself.
