# Perl at work: hashes and regular expressions, a child behind a pipe, an alarm. argv: go file. Prints each round's number.
use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use IPC::Open2;
use Time::HiRes qw(setitimer ITIMER_REAL);

$| = 1;
my $go = shift;
my $ticks = 0;
$SIG{ALRM} = sub { $ticks++ };
setitimer(ITIMER_REAL, 0.01, 0.01);
my $child = open2(my $from, my $to, "sed", "-u", "s/a/b/g");
print "ready\n";
my (%seen, $round);
for ($round = 1; !-e $go; $round++) {
    my $before = $ticks;
    my $digest = "a$round";
    $digest = md5_hex($digest) for 1 .. 5000;
    $seen{$round} = $digest;
    print $to "$digest\n";
    my $line = <$from>;
    (my $wanted = $digest) =~ s/a/b/g;
    die "child: $line instead of $wanted" if $line ne "$wanted\n";
    select(undef, undef, undef, 0.01) while $ticks == $before;
    print "$round\n";
}
for my $number (1 .. $round - 1) {
    my $digest = "a$number";
    $digest = md5_hex($digest) for 1 .. 5000;
    die "digest of round $number" if $seen{$number} ne $digest;
}
close $to;
waitpid $child, 0;
die "status of the child: $?" if $?;
setitimer(ITIMER_REAL, 0); # perl forgets its handlers before it has ended
print "ok\n";
