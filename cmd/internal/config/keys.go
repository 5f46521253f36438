package config

import "strings"

// keys lists what a configuration file may hold, with a value to show.
var keys = []struct{ name, example string }{
	{"state_dir", `state_dir = "/var/lib/tmemd"`},
	{"memory_dir", `memory_dir = "/dev/shm/tmemd"`},
	{"listen", `listen = ["unix:///run/tmemd/nbd.sock", "tcp://127.0.0.1:10809"]`},
	{"metrics", `metrics = "127.0.0.1:9757"`},
	{"metrics_exports", `metrics_exports = 200`},
	{"status_page", `status_page = true`},
	{"log_level", `log_level = "info"`},
	{"client", `[[client]] on a line of its own, then its keys`},
	{"client.name", `name = "vm1"`},
	{"client.weight", `weight = 2`},
	{"client.cap", `cap = "4GiB"`},
	{"client.reservation", `reservation = "512MiB"`},
	{"client.dedup", `dedup = true`},
	{"template", `[[template]] on a line of its own, then its keys`},
	{"template.name", `name = "small"`},
	{"template.size", `size = "4GiB"`},
	{"template.storage_folder", `storage_folder = "/var/lib/tmemd/vms"`},
	{"template.writethrough", `writethrough = "async"`},
	{"template.client", `client = "vm1"`},
	{"template.allow", `allow = ["cert:client1", "uid:1000", "gid:1000"]`},
	{"export", `[[export]] on a line of its own, then its keys`},
	{"export.name", `name = "swap"`},
	{"export.size", `size = "8GiB"`},
	{"export.storage", `storage = "/var/lib/tmemd/swap.img"`},
	{"export.writethrough", `writethrough = "async"`},
	{"export.client", `client = "vm1"`},
	{"export.allow", `allow = ["cert:client1", "uid:1000", "gid:1000"]`},
	{"disk", `[[disk]] on a line of its own, then its keys`},
	{"disk.name", `name = "root"`},
	{"disk.path", `path = "/var/lib/images/root.img"`},
	{"disk.read_only", `read_only = true`},
	{"disk.mode", `mode = "inclusive"`},
	{"disk.allow", `allow = ["cert:client1", "uid:1000", "gid:1000"]`},
	{"disk.base", `base = "debian"`},
	{"disk.shared", `shared = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"`},
	{"base", `[[base]] on a line of its own, then its keys`},
	{"base.name", `name = "debian"`},
	{"base.path", `path = "/var/lib/images/debian.img"`},
	{"base.uuid", `uuid = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"`},
	{"backend", `[[backend]] on a line of its own, then its keys`},
	{"backend.kind", `kind = "zcache"`},
	{"backend.name", `name = "zcache"`},
	{"backend.size", `size = "20%"`},
	{"backend.max_pool", `max_pool = "20%"`},
	{"backend.self_sizing", `self_sizing = "on"`},
	{"backend.min_pool", `min_pool = "5%"`},
	{"backend.codec", `codec = "lz4"`},
	{"backend.incompressible", `incompressible = "refuse"`},
	{"backend.accept_threshold_percent", `accept_threshold_percent = 90`},
	{"backend.staging", `staging = "64MiB"`},
	{"backend.cold_after", `cold_after = "10m"`},
	{"backend.cold_cpu_percent", `cold_cpu_percent = 10`},
	{"backend.scrub_period", `scrub_period = "6h"`},
	{"backend.donors", `donors = ["east=tcp://10.0.0.2:10810", "unix:///run/tmemd/donor.sock"]`},
	{"backend.donors_file", `donors_file = "/etc/tmemd/donors"`},
	{"backend.donors_srv", `donors_srv = "_tmemd._tcp.example.org"`},
	{"backend.copies", `copies = 2`},
	{"backend.deadline", `deadline = "500ms"`},
	{"backend.patience", `patience = "20s"`},
	{"backend.lost_after", `lost_after = "30s"`},
	{"backend.repair_rate", `repair_rate = "32MiB"`},
	{"backend.home", `home = "256MiB"`},
	{"nbd", `[nbd] on a line of its own, then its keys`},
	{"nbd.max_connections", `max_connections = 256`},
	{"nbd.max_handshakes", `max_handshakes = 64`},
	{"nbd.workers", `workers = 256`},
	{"nbd.max_outstanding", `max_outstanding = 128`},
	{"nbd.buffer_size", `buffer_size = "128MiB"`},
	{"nbd.handshake_timeout", `handshake_timeout = "10s"`},
	{"nbd.stall_timeout", `stall_timeout = "2m"`},
	{"nbd.socket_mode", `socket_mode = "0660"`},
	{"nbd.socket_owner", `socket_owner = "root"`},
	{"nbd.socket_group", `socket_group = "disk"`},
	{"nbd.tls", `[nbd.tls] on a line of its own, then its keys`},
	{"nbd.tls.mode", `mode = "required"`},
	{"nbd.tls.certificate", `certificate = "/etc/tmemd/server.crt"`},
	{"nbd.tls.key", `key = "/etc/tmemd/server.key"`},
	{"nbd.tls.client_ca", `client_ca = "/etc/tmemd/clients.crt"`},
	{"ramster", `[ramster.tls] on a line of its own, then its keys`},
	{"ramster.tls", `[ramster.tls] on a line of its own, then its keys`},
	{"ramster.tls.mode", `mode = "required"`},
	{"ramster.tls.certificate", `certificate = "/etc/tmemd/host.crt"`},
	{"ramster.tls.key", `key = "/etc/tmemd/host.key"`},
	{"ramster.tls.ca", `ca = "/etc/tmemd/donors.crt"`},
	{"donor", `[donor] on a line of its own, then its keys`},
	{"donor.listen", `listen = ["tcp://10.0.0.2:10810", "unix:///run/tmemd/donor.sock"]`},
	{"donor.size", `size = "25%"`},
	{"donor.self_sizing", `self_sizing = "on"`},
	{"donor.min_size", `min_size = "5%"`},
	{"donor.socket_mode", `socket_mode = "0660"`},
	{"donor.socket_owner", `socket_owner = "root"`},
	{"donor.socket_group", `socket_group = "tmemd"`},
	{"donor.tls", `[donor.tls] on a line of its own, then its keys`},
	{"donor.tls.mode", `mode = "required"`},
	{"donor.tls.certificate", `certificate = "/etc/tmemd/host.crt"`},
	{"donor.tls.key", `key = "/etc/tmemd/host.key"`},
	{"donor.tls.client_ca", `client_ca = "/etc/tmemd/owners.crt"`},
	{"donor.client", `[[donor.client]] on a line of its own, then its keys`},
	{"donor.client.name", `name = "cert:host1"`},
	{"donor.client.quota", `quota = "4GiB"`},
	{"donor.client.weight", `weight = 1`},
	{"host", `[host] on a line of its own, then its keys`},
	{"host.protect", `protect = "auto"`},
	{"host.touch", `touch = true`},
}

func exampleOf(key string) string {
	for _, k := range keys {
		if strings.EqualFold(k.name, key) {
			return k.example
		}
	}
	return "a value of another type"
}

// cureUnknown suggests the nearest key, or names the ones of the same table.
func cureUnknown(key string) string {
	best, nearest := 3, "" // more than two letters off is another word
	for _, k := range keys {
		if d := distance(strings.ToLower(key), k.name); d < best {
			best, nearest = d, k.name
		}
	}
	if nearest != "" {
		return "did you mean " + lastPart(nearest) + "?"
	}
	table := strings.TrimSuffix(key, lastPart(key))
	var names []string
	for _, k := range keys {
		if name, found := strings.CutPrefix(k.name, table); found && !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "remove it"
	}
	return "remove it; the keys here are " + strings.Join(names, ", ")
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the number of letters to insert, delete or replace to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
