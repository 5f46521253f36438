package kubernetes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// load reads the one document of a file; every key has to be one that the type has.
func load[T any](t *testing.T, file, kind, version string) (object T) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("\n---")) {
		t.Fatalf("%s has more than one document", file)
	}
	var what struct{ Kind, APIVersion string }
	if err := yaml.Unmarshal(text, &what); err != nil || what.Kind != kind || what.APIVersion != version {
		t.Fatalf("%s is %+v, %v; want %s of %s", file, what, err, kind, version)
	}
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return object
}

func daemonSet(t *testing.T) apps.DaemonSet {
	t.Helper()
	return load[apps.DaemonSet](t, "daemonset.yaml", "DaemonSet", "apps/v1")
}

func configMap(t *testing.T) core.ConfigMap {
	t.Helper()
	return load[core.ConfigMap](t, "configmap.yaml", "ConfigMap", "v1")
}

func TestKubelet(t *testing.T) {
	c := load[kubelet.KubeletConfiguration](t, "kubelet.yaml", "KubeletConfiguration", "kubelet.config.k8s.io/v1beta1")
	if c.FailSwapOn == nil || *c.FailSwapOn || c.MemorySwap.SwapBehavior != "LimitedSwap" {
		t.Errorf("pods would not swap: %+v", c)
	}
}

// A reader that knows no wrong key would make the other tests worthless.
func TestWrongKeysAreFound(t *testing.T) {
	text, err := os.ReadFile("daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][2]string{{"hostNetwork:", "hostNetworks:"}, {"periodSeconds: 30", "periodSeconds: often"}, {"readOnlyRootFilesystem", "readonlyRootFilesystems"}} {
		if !bytes.Contains(text, []byte(wrong[0])) {
			t.Fatalf("daemonset.yaml has no %s", wrong[0])
		}
		var d apps.DaemonSet
		if err := yaml.UnmarshalStrict(bytes.Replace(text, []byte(wrong[0]), []byte(wrong[1]), 1), &d); err == nil {
			t.Errorf("%s is taken for %s", wrong[1], wrong[0])
		}
	}
}

// What the API server would find, as far as these fields go.
func TestDaemonSetIsValid(t *testing.T) {
	d := daemonSet(t)
	pod := d.Spec.Template.Spec
	for name, value := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[name] != value {
			t.Errorf("the selector wants %s=%s, the pods have %v", name, value, d.Spec.Template.Labels)
		}
		if wrong := append(validation.IsQualifiedName(name), validation.IsValidLabelValue(value)...); wrong != nil {
			t.Errorf("the label %s=%s: %v", name, value, wrong)
		}
	}
	for name, value := range pod.NodeSelector {
		if wrong := append(validation.IsQualifiedName(name), validation.IsValidLabelValue(value)...); wrong != nil {
			t.Errorf("the label %s=%s: %v", name, value, wrong)
		}
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		if wrong := validation.IsDNS1123Label(v.Name); wrong != nil || volumes[v.Name] {
			t.Errorf("the volume %s: %v, or there are two", v.Name, wrong)
		}
		volumes[v.Name] = true
		if v.HostPath == nil && v.ConfigMap == nil {
			t.Errorf("the volume %s is nothing that this test knows", v.Name)
		}
	}
	used := map[string]bool{}
	for _, c := range pod.Containers {
		if wrong := validation.IsDNS1123Label(c.Name); wrong != nil || c.Image == "" {
			t.Errorf("the container %s: %v, image %q", c.Name, wrong, c.Image)
		}
		paths := map[string]bool{}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] || !filepath.IsAbs(m.MountPath) || paths[m.MountPath] {
				t.Errorf("%s has %s at %s", c.Name, m.Name, m.MountPath)
			}
			used[m.Name], paths[m.MountPath] = true, true
		}
		ports := map[string]bool{}
		for _, p := range c.Ports {
			ports[p.Name] = true
			if pod.HostNetwork && p.HostPort != p.ContainerPort {
				t.Errorf("in the node's network the port %s cannot be %d there and %d here", p.Name, p.HostPort, p.ContainerPort)
			}
		}
		for name, probe := range map[string]*core.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe, "startup": c.StartupProbe} {
			if probe != nil && (probe.HTTPGet == nil || !ports[probe.HTTPGet.Port.StrVal]) {
				t.Errorf("the %s probe of %s asks a port that there is not", name, c.Name)
			}
		}
		if c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged && c.SecurityContext.AllowPrivilegeEscalation != nil {
			t.Errorf("the API server refuses a privileged %s without escalation", c.Name)
		}
		if c.Resources.Limits != nil {
			t.Errorf("%s has limits", c.Name)
		}
	}
	for name := range volumes {
		if !used[name] {
			t.Errorf("nobody uses the volume %s", name)
		}
	}
}

// What the text promises of privileges, the end and probes.
func TestDaemonSetKeepsItsWord(t *testing.T) {
	d := daemonSet(t)
	pod := d.Spec.Template.Spec
	if pod.PriorityClassName != "system-node-critical" || *pod.TerminationGracePeriodSeconds < 600 || d.Spec.UpdateStrategy.Type != apps.OnDeleteDaemonSetStrategyType {
		t.Errorf("priority %s, %d s to end, updates %s", pod.PriorityClassName, *pod.TerminationGracePeriodSeconds, d.Spec.UpdateStrategy.Type)
	}
	if pod.HostPID || pod.HostIPC || !pod.HostNetwork || *pod.AutomountServiceAccountToken {
		t.Error("of the node's name spaces it wants the network, and no account")
	}
	if len(pod.Containers) != 2 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	daemon, attach := pod.Containers[0], pod.Containers[1]
	c := daemon.SecurityContext
	if *c.Privileged || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || !slices.Equal(c.Capabilities.Drop, []core.Capability{"ALL"}) ||
		!slices.Equal(c.Capabilities.Add, []core.Capability{"IPC_LOCK", "SYS_RESOURCE", "SYS_NICE"}) {
		t.Errorf("the daemon may do %+v", c)
	}
	if daemon.ReadinessProbe.HTTPGet.Path != "/readyz" || daemon.LivenessProbe.HTTPGet.Path != "/healthz" || daemon.StartupProbe.HTTPGet.Path != "/readyz" {
		t.Error("the probes ask for something else")
	}
	if patience := daemon.LivenessProbe.PeriodSeconds * daemon.LivenessProbe.FailureThreshold; patience < 300 {
		t.Errorf("the daemon is killed after %d s without a word", patience)
	}
	if attach.LivenessProbe != nil || !*attach.SecurityContext.Privileged {
		t.Error("the agent is not to be killed for being slow, and has to be privileged")
	}
}

func TestPodMonitor(t *testing.T) {
	m := load[monitoring.PodMonitor](t, "podmonitor.yaml", "PodMonitor", "monitoring.coreos.com/v1")
	d := daemonSet(t)
	if m.Namespace != d.Namespace {
		t.Errorf("it looks in %s, the pods are in %s", m.Namespace, d.Namespace)
	}
	for name, value := range m.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[name] != value {
			t.Errorf("it looks for %s=%s, pods have %v", name, value, d.Spec.Template.Labels)
		}
	}
	if e := m.Spec.PodMetricsEndpoints; len(e) != 1 || *e[0].Port != d.Spec.Template.Spec.Containers[0].Ports[0].Name {
		t.Errorf("it scrapes %+v", e)
	}
}

// The configuration is one that tmemd takes, and says the same as the DaemonSet.
func TestConfiguration(t *testing.T) {
	m, d := configMap(t), daemonSet(t)
	pod := d.Spec.Template.Spec
	daemon, attach := pod.Containers[0], pod.Containers[1]
	if m.Namespace != d.Namespace || pod.Volumes[0].ConfigMap.Name != m.Name {
		t.Errorf("the DaemonSet mounts the ConfigMap %s, this is %s in %s", pod.Volumes[0].ConfigMap.Name, m.Name, m.Namespace)
	}
	file := filepath.Base(daemon.Args[1])
	text, found := m.Data[file]
	if !found {
		t.Fatalf("there is no %s in the ConfigMap", file)
	}
	dir := t.TempDir()
	for _, program := range []string{"tmemd", "tmemctl"} {
		build := exec.Command("go", "build", "-o", dir, "./cmd/"+program)
		build.Dir = filepath.Join("..", "..")
		if printed, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", program, err, printed)
		}
	}
	path := filepath.Join(dir, file)
	check := func(text string) (string, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// All is as in the pod but the memory folder, which is on the node.
		printed, err := exec.Command(filepath.Join(dir, "tmemd"), "--check", "--config", path, "--memory-dir", "/dev/shm/tmemd-kubernetes-test").CombinedOutput()
		return string(printed), err
	}
	if printed, err := check(text); err != nil {
		t.Errorf("tmemd says %v: %s", err, printed)
	}
	if printed, err := check(text + "swapiness = 1\n"); err == nil {
		t.Errorf("of a wrong key tmemd says %s", printed)
	}
	for key, want := range map[string]string{"state_dir": "/var/lib/tmemd", "memory_dir": "/dev/shm/tmemd-kubernetes"} {
		value := regexp.MustCompile(`(?m)^` + key + ` = "([^"]*)"`).FindStringSubmatch(text)
		if value == nil || value[1] != want || !slices.ContainsFunc(daemon.VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath == want }) {
			t.Errorf("%s is %q, and has to be mounted: %+v", key, value, daemon.VolumeMounts)
		}
	}
	if !strings.Contains(text, `metrics = "0.0.0.0:9757"`) || daemon.Ports[0].ContainerPort != 9757 {
		t.Errorf("metrics are not at the port %d", daemon.Ports[0].ContainerPort)
	}
	// The agent's flags are tmemctl's: it gets as far as asking a daemon, which is not there.
	printed, err := exec.Command(filepath.Join(dir, "tmemctl"), slices.Concat([]string{"--state-dir", dir}, attach.Command[3:])...).CombinedOutput()
	if err == nil || !strings.Contains(string(printed), "admin.sock") {
		t.Errorf("%q says %v: %s", attach.Command, err, printed)
	}
	if attach.Command[0] != "/usr/bin/tmemctl" {
		t.Errorf("the image has no %s", attach.Command[0])
	}
}

// The README's commands name files that are there.
func TestReadmeNamesFiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`deploy/kubernetes/([a-z]+\.yaml)`).FindAllStringSubmatch(string(text), -1)
	if len(files) < 3 {
		t.Fatalf("it names %v", files)
	}
	for _, file := range files {
		if _, err := os.Stat(file[1]); err != nil {
			t.Error(err)
		}
	}
}
