package admin

import (
	"context"
	"fmt"
	"testing"
)

func (s *fakeService) Disks() []Disk {
	return []Disk{{Name: "root", SizeBytes: 1 << 30, Mode: "inclusive", SuccGets: 7, Backends: map[string]int64{"zcache": 5}}}
}

func (s *fakeService) SetDisk(name string, settings DiskSettings) (Disk, error) {
	return Disk{Name: name, Mode: settings.Mode}, nil
}

func TestDisks(t *testing.T) {
	c := startClient(t, &fakeService{})
	disks, err := c.Disks(context.Background())
	if err != nil || len(disks) != 1 || disks[0].SuccGets != 7 || disks[0].Backends["zcache"] != 5 {
		t.Errorf("Disks = %+v, %v", disks, err)
	}
	d, err := c.SetDisk(context.Background(), "a/b", DiskSettings{Mode: "exclusive"})
	if err != nil || d.Name != "a/b" || d.Mode != "exclusive" {
		t.Errorf("SetDisk = %+v, %v", d, err)
	}
	made, err := c.CreateDisk(context.Background(), DiskRequest{Name: "x", Path: "/x", Size: "1GiB", Base: "b", Allow: []string{"uid:1"}})
	if err != nil || made.Name != "x" || made.Storage.Path != "/x 1GiB b [uid:1]" {
		t.Errorf("CreateDisk = %+v, %v", made, err)
	}
	if _, err := c.ResizeDisk(context.Background(), "a/b", DiskResizeRequest{Size: "1GiB", Discard: true}); err == nil || err.Error() != "a/b 1GiB true" {
		t.Errorf("ResizeDisk: %v", err)
	}
	if err := c.DeleteDisk(context.Background(), "a/b", DeleteRequest{RemoveStorage: true}); err == nil || err.Error() != "a/b true" {
		t.Errorf("DeleteDisk: %v", err)
	}
}

func (s *fakeService) CreateDisk(r DiskRequest) (Disk, error) {
	return Disk{Name: r.Name, Storage: Storage{Path: fmt.Sprint(r.Path, " ", r.Size, " ", r.Base, " ", r.Allow)}}, nil
}

func (s *fakeService) ResizeDisk(name string, to DiskResizeRequest) (Disk, error) {
	return Disk{}, &Error{Status: 409, Message: fmt.Sprint(name, " ", to.Size, " ", to.Discard)}
}

func (s *fakeService) DeleteDisk(name string, removeStorage bool) error {
	return &Error{Status: 409, Message: fmt.Sprint(name, " ", removeStorage)}
}
