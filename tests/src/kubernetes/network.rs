//! A bridge, and a network namespace a pod. All of it goes when the network is dropped.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// Addresses of pods: the last byte.
const FIRST: u8 = 10;
const LAST: u8 = 250;

/// A bridge with this machine at its address 1.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    next: AtomicU8,
}

impl Network {
    /// Makes the bridge; `None` where that cannot be done (it needs root and iproute2).
    #[must_use]
    pub fn new() -> Option<Self> {
        clear();
        let network = Self {
            prefix: format!("sk{}", std::process::id() % 100_000),
            next: AtomicU8::new(FIRST),
        };
        let bridge = network.bridge();
        let whole = ip(&["link", "add", &bridge, "type", "bridge"])
            && ip(&["addr", "add", &format!("{}/24", Self::host()), "dev", &bridge])
            && ip(&["link", "set", &bridge, "up"]);
        whole.then_some(network)
    }

    /// This machine, as pods reach it.
    #[must_use]
    pub fn host() -> Ipv4Addr {
        Self::address(1)
    }

    fn address(at: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 78, at)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    /// A namespace with an address of its own.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn plug(&self) -> Plug {
        for _ in FIRST..LAST {
            let at = self.next.fetch_add(1, Ordering::Relaxed) % (LAST - FIRST) + FIRST;
            let plug = Plug {
                space: format!("{}n{at}", self.prefix),
                cable: format!("{}c{at}", self.prefix),
                address: Self::address(at),
            };
            if plug.make(&self.bridge(), &format!("{}f{at}", self.prefix)) {
                return plug;
            }
            // Its number is in use: it belongs to a pod that lives.
            std::mem::forget(plug);
        }
        panic!("no network namespace can be made");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&["link", "del", &self.bridge()]);
    }
}

/// A pod's place in the network.
#[derive(Debug)]
pub struct Plug {
    space: String,
    cable: String,
    address: Ipv4Addr,
}

impl Plug {
    fn make(&self, bridge: &str, far: &str) -> bool {
        ip(&["netns", "add", &self.space])
            && ip(&["link", "add", &self.cable, "type", "veth", "peer", "name", far])
            && ip(&["link", "set", far, "netns", &self.space])
            && ip(&["link", "set", &self.cable, "master", bridge, "up"])
            && ip(&[
                "-n",
                &self.space,
                "addr",
                "add",
                &format!("{}/24", self.address),
                "dev",
                far,
            ])
            && ip(&["-n", &self.space, "link", "set", far, "up"])
            && ip(&["-n", &self.space, "link", "set", "lo", "up"])
    }

    /// The name of its namespace.
    #[must_use]
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        ip(&["link", "del", &self.cable]);
        ip(&["netns", "del", &self.space]);
    }
}

/// Takes away what tests left that were killed: two bridges of one address disturb each other.
fn clear() {
    let listed = |args: &[&str]| {
        let output = Command::new("ip").args(args).output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let is_left = |name: &str| {
        let process = name.strip_prefix("sk").and_then(|name| name.split(['b', 'n']).next());
        process.is_some_and(|id| id.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(id).exists())
    };
    for line in listed(&["netns", "list"]).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if is_left(name) {
            ip(&["netns", "del", name]);
        }
    }
    for line in listed(&["-o", "link", "show", "type", "bridge"]).lines() {
        let name = line.split([':', '@']).nth(1).unwrap_or_default().trim();
        if is_left(name) {
            ip(&["link", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success())
}
