//! Owns the words for a schema: keys, shapes of values, defaults. The two files' keys are tables of these.
//!
//! One table serves for everything: reading a file (`read.rs`), the defaults, the reference page
//! (`reference.rs`) and the tests of every key. Never knows what a key is for.
//!
//! Invariant: every key of a file is in its table, with a sentence that says what it does; keys whose feature
//! is not built are there too, and in [`crate::unsupported`].

pub(crate) mod networkproxy;
pub(crate) mod read;
pub(crate) mod route;
pub(crate) mod scalar;
pub(crate) mod smartproxy;
#[cfg(test)]
mod tests;

/// One of the two files.
#[derive(Debug)]
pub(crate) struct FileSchema {
    /// How the documentation calls the file.
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [Key],
    /// Keys and words whose feature is not built.
    pub(crate) unsupported: &'static [&'static str],
    /// The other file.
    pub(crate) other: &'static FileSchema,
}

/// `smartproxy.yaml`.
pub(crate) static SMARTPROXY: FileSchema = FileSchema {
    name: "smartproxy.yaml",
    keys: &smartproxy::KEYS,
    unsupported: crate::unsupported::SMARTPROXY,
    other: &NETWORKPROXY,
};

/// `networkproxy.yaml`.
pub(crate) static NETWORKPROXY: FileSchema = FileSchema {
    name: "networkproxy.yaml",
    keys: &networkproxy::KEYS,
    unsupported: crate::unsupported::NETWORKPROXY,
    other: &SMARTPROXY,
};

/// One key of a section.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) fallback: Fallback,
    /// What the key does; one or two sentences for the reference page.
    pub(crate) doc: &'static str,
}

/// A key with a default, written as in a file.
pub(crate) const fn key(name: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Key {
    Key { name, shape, fallback: Fallback::Text(default), doc }
}

/// A key without which its section means nothing.
pub(crate) const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, fallback: Fallback::Required, doc }
}

/// A key whose absence means something of its own, which `doc` says.
pub(crate) const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, fallback: Fallback::Absent, doc }
}

/// What holds where a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// An error.
    Required,
    /// Nothing.
    Absent,
    /// This text, read as if the file had it.
    Text(&'static str),
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One value.
    One(Scalar),
    /// One value, read together with the place that set it.
    Sourced(Scalar),
    /// A section with these keys.
    Section(&'static [Key]),
    /// A section with these keys that remembers where it starts: a route.
    Placed(&'static [Key]),
    /// A section with these keys, or one value that stands for the section with only this key.
    Short(&'static [Key], &'static str),
    /// One of these words, or a section with these keys.
    WordOr(&'static str, &'static [Key]),
    /// A section with keys of the user's own.
    Names(Scalar),
    /// A list.
    List(&'static Shape, Least),
}

/// How many elements a list needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Least {
    None,
    One,
}

/// What a single value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar {
    /// Any text.
    Text,
    /// The name of a route.
    Name,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(u64, u64),
    /// As above, where 0 means "no limit".
    Limit(u64),
    /// As above, or `auto`.
    Auto(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these numbers.
    Choice(&'static [u64]),
    /// A duration, its least value and what zero means.
    Duration(Zero),
    /// A number of bytes within bounds.
    Size(u64, u64),
    /// A percentage up to this.
    Percent(u32),
    /// A count and a duration.
    Rate,
    /// An IP address and a port.
    Address,
    /// An IP address.
    Ip,
    /// A network in CIDR notation.
    Network,
    /// A server name, or a wildcard.
    Domain,
    /// A port, or a range of ports.
    Ports,
    /// A target: host or address, and port.
    Target,
    /// A path in the file system.
    File,
    /// A path of a request.
    UrlPath,
    /// A location to redirect to.
    Location,
}

/// What a duration of zero means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    /// Nothing: it is refused.
    Refused,
    /// No limit.
    NoLimit,
    /// Not to wait.
    NoWait,
}
