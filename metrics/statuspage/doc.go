// Package statuspage is a page that shows the daemon to a browser, live: where pages are, what
// they take, how fast they come and go, what is refused, and whether all is well. The daemon
// serves it beside its metrics.
//
//	GET /             the page, with page.css and page.js: files of this folder, embedded
//	GET /status.json  what it polls once a second, a [View]
//
// Invariants:
//
//	P1  It changes nothing. There is no request but GET.
//	P2  It needs nothing but this daemon: no other host, no font, no script of others. The
//	    browser is told to hold it to that (Content-Security-Policy), and names from the
//	    daemon become text, never markup.
//	P3  No other site can read it: there are no CORS headers, and on a loopback address a request
//	    that was sent to another name than loopback's is refused, as a page of somebody else's
//	    can have its own name point here (DNS rebinding).
//	P4  A view is bounded: so many exports, disks and borrowers, largest first, and how many
//	    were left out. It has what metrics have: no addresses, no certificates, no paths.
//	P5  Many viewers cost what one does: a sample is shared while it is fresh, and so many
//	    requests are answered at a time.
//
// Not promised: that /status.json stays as it is; metrics and the admin API are the interfaces. Access control: whoever reaches
// the address may look.
//
// History is the browser's: the daemon keeps none. Rates are differences of two views.
package statuspage
