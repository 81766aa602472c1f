package backend

import "testing"

func BenchmarkNewVolumeID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewVolumeID("node", "pvc-9a7b8c6d-5e4f-3210-9a7b-8c6d5e4f3210")
	}
}

func BenchmarkParseVolumeID(b *testing.B) {
	text := NewVolumeID("node", "name").String()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseVolumeID(text); err != nil {
			b.Fatal(err)
		}
	}
}
