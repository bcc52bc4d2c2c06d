//! Groups and hosts as Ansible relates them: who is in what, how deep a group lies, in which order hosts come.
//!
//! Pure data. The parser fills it, [`Tree::settle`] applies Ansible's rules once (`all` and `ungrouped`, loops, depths); after
//! that it does not change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::MAX_GROUP_DEPTH;
use crate::{
    model::HostName,
    yaml::{Diagnostic, Location, Node},
};

/// Variables from one place.
pub(super) type VarMap = BTreeMap<Arc<str>, Node>;

/// A group's index in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct GroupId(usize);

/// A host's index in the tree, in the order of first mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostIndex(usize);

/// The group every host is in.
pub(super) const ALL: GroupId = GroupId(0);
/// The group of hosts that are in no other.
pub(super) const UNGROUPED: GroupId = GroupId(1);

#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Arc<str>,
    /// Where it was first mentioned.
    pub(super) location: Location,
    /// Levels below `all` on the longest way.
    pub(super) depth: usize,
    /// `ansible_group_priority`.
    pub(super) priority: i128,
    /// From the inventory file.
    pub(super) vars: Arc<VarMap>,
    /// From `group_vars/`, later files win.
    pub(super) files: Vec<Arc<VarMap>>,
    /// Hosts directly in it.
    pub(super) hosts: Vec<HostIndex>,
    pub(super) children: Vec<GroupId>,
    parents: Vec<GroupId>,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: HostName,
    /// Where it was first mentioned.
    pub(super) location: Location,
    /// From the inventory file and then from `host_vars/`, later ones win.
    pub(super) vars: Vec<Arc<VarMap>>,
    /// Groups it is directly in.
    groups: Vec<GroupId>,
}

#[derive(Debug)]
pub(super) struct Tree {
    groups: Vec<Group>,
    group_ids: HashMap<Arc<str>, GroupId>,
    hosts: Vec<Host>,
    host_ids: HashMap<HostName, HostIndex>,
    edges: HashMap<(GroupId, GroupId), Location>,
    members: HashSet<(GroupId, HostIndex)>,
}

impl Tree {
    /// Makes a tree with the two groups that always exist.
    pub(super) fn new(whole: &Location) -> Self {
        let mut tree = Self {
            groups: Vec::new(),
            group_ids: HashMap::new(),
            hosts: Vec::new(),
            host_ids: HashMap::new(),
            edges: HashMap::new(),
            members: HashSet::new(),
        };
        tree.add_group("all", whole);
        tree.add_group("ungrouped", whole);
        tree.add_child(ALL, UNGROUPED, whole);
        tree
    }

    pub(super) fn group(&self, id: GroupId) -> &Group {
        &self.groups[id.0]
    }

    pub(super) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        &mut self.groups[id.0]
    }

    pub(super) fn host(&self, id: HostIndex) -> &Host {
        &self.hosts[id.0]
    }

    pub(super) fn host_mut(&mut self, id: HostIndex) -> &mut Host {
        &mut self.hosts[id.0]
    }

    pub(super) fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Iterates over the groups in the order of first mention.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().enumerate().map(|(index, group)| (GroupId(index), group))
    }

    /// Iterates over the hosts in the order of first mention.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (HostIndex, &Host)> {
        self.hosts.iter().enumerate().map(|(index, host)| (HostIndex(index), host))
    }

    pub(super) fn find_group(&self, name: &str) -> Option<GroupId> {
        self.group_ids.get(name).copied()
    }

    pub(super) fn find_host(&self, name: &str) -> Option<HostIndex> {
        self.host_ids.get(&HostName::new(name).ok()?).copied()
    }

    /// Returns the group of this name, made if it is new.
    pub(super) fn add_group(&mut self, name: &str, location: &Location) -> GroupId {
        if let Some(id) = self.find_group(name) {
            return id;
        }
        let id = GroupId(self.groups.len());
        let name: Arc<str> = name.into();
        self.group_ids.insert(Arc::clone(&name), id);
        self.groups.push(Group {
            name,
            location: location.clone(),
            depth: 0,
            priority: 1,
            vars: Arc::default(),
            files: Vec::new(),
            hosts: Vec::new(),
            children: Vec::new(),
            parents: Vec::new(),
        });
        id
    }

    /// Puts a group under another; loops are found by [`Tree::settle`].
    pub(super) fn add_child(&mut self, parent: GroupId, child: GroupId, location: &Location) {
        if let std::collections::hash_map::Entry::Vacant(edge) = self.edges.entry((parent, child)) {
            edge.insert(location.clone());
            self.groups[parent.0].children.push(child);
            self.groups[child.0].parents.push(parent);
        }
    }

    /// Returns the host of this name and true if it is new.
    pub(super) fn add_host(&mut self, name: HostName, location: &Location) -> (HostIndex, bool) {
        if let Some(id) = self.host_ids.get(&name) {
            return (*id, false);
        }
        let id = HostIndex(self.hosts.len());
        self.host_ids.insert(name.clone(), id);
        self.hosts.push(Host { name, location: location.clone(), vars: Vec::new(), groups: Vec::new() });
        (id, true)
    }

    /// Puts a host into a group.
    pub(super) fn join(&mut self, host: HostIndex, group: GroupId) {
        if self.members.insert((group, host)) {
            self.groups[group.0].hosts.push(host);
            self.hosts[host.0].groups.push(group);
        }
    }

    /// Applies Ansible's rules: every group is under `all`, every host in some group, no loop; computes depths.
    pub(super) fn settle(&mut self) -> Result<(), Diagnostic> {
        for index in 0..self.groups.len() {
            let id = GroupId(index);
            if id != ALL && self.groups[index].parents.is_empty() {
                let location = self.groups[index].location.clone();
                self.add_child(ALL, id, &location);
            }
        }
        self.compute_depths()?;
        let mut leaving = HashSet::new();
        for index in 0..self.hosts.len() {
            let (host, groups) = (HostIndex(index), &self.hosts[index].groups);
            let grouped = groups.iter().any(|group| *group != ALL && *group != UNGROUPED);
            if grouped && groups.contains(&UNGROUPED) {
                leaving.insert(host);
                self.hosts[index].groups.retain(|group| *group != UNGROUPED);
            } else if !grouped {
                self.join(host, UNGROUPED);
            }
        }
        self.groups[UNGROUPED.0].hosts.retain(|host| !leaving.contains(host));
        // Only needed to build the tree.
        self.edges = HashMap::new();
        self.members = HashSet::new();
        Ok(())
    }

    /// Gives each group the length of its longest way from `all`; a group that is never reached that way is in a loop.
    fn compute_depths(&mut self) -> Result<(), Diagnostic> {
        let mut waiting: Vec<usize> = self.groups.iter().map(|group| group.parents.len()).collect();
        let mut ready: VecDeque<GroupId> = VecDeque::new();
        if waiting[ALL.0] == 0 {
            ready.push_back(ALL);
        }
        let mut done = 0;
        while let Some(id) = ready.pop_front() {
            done += 1;
            let depth = self.groups[id.0].depth + 1;
            for child in self.groups[id.0].children.clone() {
                self.groups[child.0].depth = self.groups[child.0].depth.max(depth);
                if depth > MAX_GROUP_DEPTH {
                    let message = format!("groups are nested more than {MAX_GROUP_DEPTH} levels deep");
                    return Err(Diagnostic::new(&self.groups[child.0].location, message));
                }
                waiting[child.0] -= 1;
                if waiting[child.0] == 0 {
                    ready.push_back(child);
                }
            }
        }
        if done == self.groups.len() { Ok(()) } else { Err(self.describe_loop(&waiting)) }
    }

    /// Follows parents that wait for each other until one comes again.
    fn describe_loop(&self, waiting: &[usize]) -> Diagnostic {
        let stuck = |id: &GroupId| waiting[id.0] > 0;
        let mut way: Vec<GroupId> = Vec::new();
        let mut next = (0..self.groups.len()).map(GroupId).find(stuck);
        while let Some(id) = next {
            if let Some(start) = way.iter().position(|seen| *seen == id) {
                way.drain(..start);
                break;
            }
            way.push(id);
            next = self.groups[id.0].parents.iter().copied().find(stuck);
        }
        // From parent to child, closed.
        way.reverse();
        way.extend(way.first().copied());
        let names: Vec<String> = way.iter().take(10).map(|id| format!("`{}`", self.groups[id.0].name)).collect();
        let edge =
            way.iter().zip(way.iter().skip(1)).filter_map(|(parent, child)| self.edges.get(&(*parent, *child))).next_back();
        let location = edge.unwrap_or(&self.groups[ALL.0].location);
        let message = format!("groups contain each other in a loop: {}", names.join(" > "));
        Diagnostic::new(location, message).with_hint("remove one of them from the other's `children`")
    }

    /// Returns every host in a group and the groups below it, once each, level by level as Ansible does.
    pub(super) fn hosts_below(&self, group: GroupId) -> Vec<HostIndex> {
        let mut found = Vec::new();
        let mut taken = HashSet::new();
        let mut seen = HashSet::from([group]);
        let mut queue = VecDeque::from([group]);
        while let Some(id) = queue.pop_front() {
            let group = &self.groups[id.0];
            found.extend(group.hosts.iter().filter(|host| taken.insert(**host)));
            queue.extend(group.children.iter().filter(|child| seen.insert(**child)));
        }
        found
    }

    /// Returns the groups a host is directly in.
    pub(super) fn direct_groups(&self, host: HostIndex) -> &[GroupId] {
        &self.hosts[host.0].groups
    }

    /// Returns these groups and all above them except `all`, in the order in which their variables apply: by depth, then
    /// `ansible_group_priority`, then name.
    pub(super) fn in_order_of_precedence(&self, direct: &[GroupId]) -> Vec<GroupId> {
        let mut found: BTreeSet<GroupId> = direct.iter().copied().collect();
        let mut queue: Vec<GroupId> = direct.to_vec();
        while let Some(id) = queue.pop() {
            queue.extend(self.groups[id.0].parents.iter().filter(|parent| found.insert(**parent)));
        }
        found.remove(&ALL);
        let mut found: Vec<GroupId> = found.into_iter().collect();
        found.sort_by_cached_key(|id| {
            let group = &self.groups[id.0];
            (group.depth, group.priority, Arc::clone(&group.name))
        });
        found
    }
}
