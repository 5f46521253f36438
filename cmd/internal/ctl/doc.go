// Package ctl is tmemctl: its commands, what they print, and nothing that could
// be done to a daemon but by its admin API. The commands that ask no daemon are
// packages of their own: bench and estimate.
//
// cmd/tmemctl calls [Command] with its arguments; tests do the same.
//
// Screens are made by package view, which knows neither clock nor terminal.
//
// What commands print is for people, and may change. With --json it is the admin
// API's own types, which are an interface: one JSON value, or for a move of pages one
// a line.
package ctl
