//! A fleet of network namespaces on one switch or two: built, shaped, measured and taken down without a trace.
//!
//! Each machine is a network namespace with one link to a bridge, which has a namespace of its own, so that nothing appears in the
//! machine's own network. Both directions of every link are shaped by `tc tbf`: what a machine sends at its own interface, what it receives
//! at the bridge's port. Who has which address is fixed and known to all. With zones there are two bridges and a link between them. A machine's processes are in a control group of its own,
//! and can be given a view of the file system in which `/root`, `/srv`, `/var/cache` and `/etc/ssh` are its own.

mod group;
mod link;
mod meter;
mod remains;
mod servers;
mod shape;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context as _, Result};

use crate::program::{ip, run};
use group::Group;
use link::End;
use remains::{PREFIX, Remains};

pub(crate) use meter::{Meter, Usage};
pub(crate) use remains::sweep;
pub(crate) use shape::{Class, Shape, Variation};

/// What a host sees as its own, and the directory of the machine that stands for it.
const OWN_DIRECTORIES: [(&str, &str); 4] =
    [("/root", "root"), ("/srv", "srv"), ("/var/cache", "cache"), ("/etc/ssh", "etc-ssh")];

/// The bridge's name in its namespace.
const BRIDGE: &str = "br0";

/// Where the machines' hardware addresses are, in the fleet's directory: commands for `ip -batch`.
const NEIGHBOURS: &str = "neighbours";

/// One machine of the fleet.
#[derive(Debug)]
pub(crate) struct Machine {
    /// `controller`, `h01`, `h02` and so on, `origin`.
    pub(crate) name: String,
    /// Its address in the fleet.
    pub(crate) address: Ipv4Addr,
    /// Its directory in the fleet's working directory.
    pub(crate) directory: PathBuf,
    /// Its own end of its link.
    interface: End,
    /// The bridge's end of its link.
    port: End,
    group: Group,
}

impl Machine {
    /// Prepares a program that runs in this machine's network and control group and sees the file system as it is.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.group.entrance());
        command.args(["ip", "netns", "exec", &self.interface.namespace]).arg(program);
        command
    }

    /// Prepares a program that runs in this machine's network and sees its own `/root`, `/srv`, `/var/cache` and `/etc/ssh`.
    pub(crate) fn command_inside(&self, program: &str) -> Command {
        let binds: String = OWN_DIRECTORIES
            .iter()
            .map(|(path, own)| format!("mount --bind {}/{own} {path} && ", self.directory.display()))
            .collect();
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
        command.arg(format!("{binds}cd / && exec \"$0\" \"$@\"")).arg(program);
        command.env("HOME", "/root").env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Its hardware address, made of its address.
    fn hardware_address(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Limits both directions of its link.
    fn shape(&self, kbit: Option<u32>) -> Result<()> {
        self.interface.shape(kbit)?;
        self.port.shape(kbit)
    }

    /// Cuts this machine off: nothing gets to it or from it, and nobody is told.
    pub(crate) fn cut_off(&self) -> Result<()> {
        self.port.cut()
    }

    /// Sets one of the kernel's settings that are for one machine.
    fn set(&self, setting: &str) -> Result<()> {
        let namespace = &self.interface.namespace;
        run(Command::new("ip").args(["netns", "exec", namespace, "sysctl", "-qw", setting]))
    }

    /// Joins what [`Machine::cut_off`] cut.
    pub(crate) fn reconnect(&self) -> Result<()> {
        self.port.mend()
    }

    /// Kills this machine's processes whose name begins with `name`.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        for pid in self.group.processes()? {
            let is_meant = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name));
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| is_meant) {
                // One that has just ended is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        Ok(())
    }
}

/// The machines, their links and their SSH servers. Dropping it takes everything down.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Where deploys are started and seeds run.
    pub(crate) controller: Machine,
    /// The rest.
    pub(crate) hosts: Vec<Machine>,
    /// Where a web server runs, if there is one.
    pub(crate) origin: Option<Machine>,
    /// Where everything of this fleet lies.
    pub(crate) directory: PathBuf,
    /// What it looks like.
    pub(crate) shape: Shape,
    /// Both ends of the link between the zones, the controller's zone first.
    zone_link: Option<[End; 2]>,
    remains: Remains,
    servers: Vec<Child>,
}

impl Fleet {
    /// Builds a fleet of this shape whose TCP has that congestion control, with files under `directory`. Its links are as fast as the machine until
    /// [`Fleet::narrow`].
    pub(crate) fn build(shape: &Shape, congestion: &str, directory: &Path) -> Result<Self> {
        shape.check()?;
        let prefix = format!("{PREFIX}{}", std::process::id());
        let directory = directory.join(&prefix);
        let group = Group::named(&prefix)?;
        let switches = ["near", "far"].map(|zone| format!("{prefix}-switch-{zone}"));
        let machine = |name: String, number: usize, switch: &str| Machine {
            address: Ipv4Addr::new(10, 77, (number / 250) as u8, (number % 250 + 1) as u8),
            directory: directory.join(&name),
            interface: End::new(&format!("{prefix}-{name}"), "eth0"),
            port: End::new(switch, &format!("port{number}")),
            group: group.child(&name),
            name,
        };
        let host = |host: usize| {
            let switch = &switches[usize::from(shape.class(host) == Class::Far)];
            machine(format!("h{:02}", host + 1), host + 1, switch)
        };
        let mut fleet = Self {
            controller: machine("controller".into(), 0, &switches[0]),
            hosts: (0..shape.hosts).map(host).collect(),
            origin: shape.origin_rate_kbit().map(|_| machine("origin".into(), shape.hosts + 1, &switches[0])),
            directory: directory.clone(),
            shape: shape.clone(),
            zone_link: shape.zone_link_kbit().map(|_| [0, 1].map(|zone| End::new(&switches[zone], "zones"))),
            remains: Remains { namespaces: Vec::new(), group: group.clone(), directory: directory.clone() },
            servers: Vec::new(),
        };
        // From here on an error drops the fleet, which takes down what is there.
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        group.create()?;
        let machines: Vec<&Machine> = std::iter::once(&fleet.controller).chain(&fleet.hosts).chain(&fleet.origin).collect();
        fleet.remains.build_networks(&machines, fleet.zone_link.as_ref())?;
        fleet.machines().try_for_each(|machine| machine.set(&format!("net.ipv4.tcp_congestion_control={congestion}")))?;
        fleet.machines().try_for_each(servers::make_directories)?;
        servers::start(&fleet.controller, &fleet.hosts, &mut fleet.servers)?;
        Ok(fleet)
    }

    /// Gives every link the rate it is to have and takes from hosts the packets they are to lose.
    pub(crate) fn narrow(&self) -> Result<()> {
        for end in self.zone_link.iter().flatten() {
            end.shape(self.shape.zone_link_kbit())?;
        }
        self.controller.shape(self.shape.controller_rate_kbit())?;
        self.origin.iter().try_for_each(|origin| origin.shape(self.shape.origin_rate_kbit()))?;
        for (number, host) in self.hosts.iter().enumerate() {
            host.shape(self.shape.rate_kbit(number))?;
            if let Some(percent) = self.shape.loss_percent(number) {
                host.interface.lose(percent)?;
            }
        }
        Ok(())
    }

    /// Returns all machines.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Machine> {
        std::iter::once(&self.controller).chain(&self.hosts).chain(&self.origin)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let mut outcome = self.remains.take_down();
        for mut server in std::mem::take(&mut self.servers) {
            outcome = outcome.and(server.wait().map(drop).context("sshd"));
        }
        if let Err(error) = outcome {
            eprintln!("lab: the fleet is not completely taken down: {error:#}");
        }
    }
}

impl Remains {
    /// Makes the switches, the machines' namespaces and groups, and their links. The controller is the first machine.
    fn build_networks(&mut self, machines: &[&Machine], zones: Option<&[End; 2]>) -> Result<()> {
        self.list_neighbours(machines)?;
        let Some(controller) = machines.first() else { return Ok(()) };
        self.add_switch(&controller.port.namespace)?;
        if let Some([near, far]) = zones {
            self.add_switch(&far.namespace)?;
            near.join(far)?;
            near.plug_in()?;
            far.plug_in()?;
        }
        machines.iter().try_for_each(|machine| self.add_machine(machine))
    }

    /// Writes down everybody's hardware address.
    ///
    /// The kernel's table of addresses it has asked for is one for all namespaces, of 1,024 entries by default
    /// (`net.ipv4.neigh.default.gc_thresh3`): when it is full, connections fail. Entries that are put there for good don't count.
    fn list_neighbours(&self, machines: &[&Machine]) -> Result<()> {
        let commands: String = machines
            .iter()
            .map(|machine| {
                let Machine { address, interface, .. } = machine;
                let hardware = machine.hardware_address();
                format!("neighbour add {address} lladdr {hardware} dev {} nud permanent\n", interface.device)
            })
            .collect();
        let path = self.directory.join(NEIGHBOURS);
        fs::write(&path, commands).with_context(|| path.display().to_string())
    }

    fn add_switch(&mut self, switch: &str) -> Result<()> {
        self.add_namespace(switch)?;
        // A switch has no firewall. Not every kernel asks it on a bridge: `-e` passes over what is not there.
        run(Command::new("ip").args(["netns", "exec", switch, "sysctl", "-eqw", "net.bridge.bridge-nf-call-iptables=0"]))?;
        ip(&["-n", switch, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0"])?;
        ip(&["-n", switch, "link", "set", BRIDGE, "up"])
    }

    fn add_machine(&mut self, machine: &Machine) -> Result<()> {
        let Machine { interface, port, address, .. } = machine;
        let namespace = interface.namespace.as_str();
        machine.group.create()?;
        self.add_namespace(namespace)?;
        // IPv6's neighbour discovery would be counted as traffic.
        machine.set("net.ipv6.conf.all.disable_ipv6=1")?;
        port.join(interface)?;
        port.plug_in()?;
        ip(&["-n", namespace, "link", "set", &interface.device, "address", &machine.hardware_address()])?;
        ip(&["-n", namespace, "address", "add", &format!("{address}/16"), "dev", &interface.device])?;
        ip(&["-n", namespace, "link", "set", &interface.device, "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        run(Command::new("ip").args(["-n", namespace, "-batch"]).arg(self.directory.join(NEIGHBOURS)))
    }

    fn add_namespace(&mut self, name: &str) -> Result<()> {
        ip(&["netns", "add", name])?;
        self.namespaces.push(name.to_owned());
        Ok(())
    }
}
