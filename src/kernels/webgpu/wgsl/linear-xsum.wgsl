// Sums of the step's x over each group, where the format needs them, in ascending order.
#if FORMAT == 4 || (FORMAT == 8 && MINS)
#repeat m TM
#repeat h 32 / GROUP
    var xsum$(m)_$(h) = x$(m)_$(h * GROUP);
#repeat k GROUP - 1
    xsum$(m)_$(h) += x$(m)_$(h * GROUP + k + 1);
#end
#end
#end
#endif
